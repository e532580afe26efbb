"""The contract under requests generated from its own document: whole broker, both kinds of key."""

from collections.abc import Iterator

import pytest
from generated import SHORT, World, free_port, send_generated, streaming_operations
from whole_broker import WholeBroker

PATIENCE_S = 600.0
"""Thousands of requests, on a machine that may be several times as slow as another."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(PATIENCE_S)]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    broker = WholeBroker(tmp_path_factory.mktemp("generated"), port=free_port(), **SHORT)
    broker.start()
    world = World(broker.running.api_url, broker.running.api_key)
    world.populate()
    yield world
    assert broker.stop() == 0
    assert '"event":"gateway.failed"' not in broker.log


def test_only_the_stream_is_left_out(world: World) -> None:
    assert streaming_operations(world.url) == ["streamMessages"]


@pytest.mark.parametrize(
    ("who", "options"),
    [
        ("operator", ("--phases", "examples,coverage", "--generation-deterministic")),
        ("operator", ("--phases", "fuzzing", "-n", "5", "--generation-deterministic")),
        ("operator", ("--phases", "stateful", "-n", "6", "--generation-deterministic")),
        ("agent", ("--phases", "fuzzing", "-n", "3", "--generation-deterministic")),
    ],
    ids=["operator-coverage", "operator-fuzzing", "operator-stateful", "agent-fuzzing"],
)
def test_nothing_but_what_is_documented_comes_back(world: World, who: str, options: tuple[str, ...]) -> None:
    key = world.operator_key if who == "operator" else world.agent_key
    code, said = send_generated(world, key, ("--continue-on-failure", *options), timeout_s=PATIENCE_S - 30)
    assert code == 0, said[-12_000:]
