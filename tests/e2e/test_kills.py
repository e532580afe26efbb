"""Processes and stores killed or restarted under load, publishers going on: nothing is lost, and a message
comes twice only where it was under way at a kill."""

import asyncio
import signal
from collections.abc import Awaitable, Callable

import pytest
from receivers import Gate
from scene import Scene, spread
from whole_broker import WholeBroker, until

from broker.client.streams import message
from schema.agent import RegisteredAgent
from schema.limits import ENDPOINT_IN_FLIGHT_MAX, SHARD_IN_FLIGHT_MAX

pytestmark = pytest.mark.e2e

SHARDS = 2
KILL, TERM = signal.SIGKILL, signal.SIGTERM
Publisher = Callable[[int], Awaitable[object]]


def publishers(scene: Scene, agents: list[RegisteredAgent], skill: str) -> list[Publisher]:
    """Two that send over HTTP and two that publish natively, by name and by capability."""
    return [
        lambda n: scene.send(spread(agents, n), priority=n % 10 + 1),
        lambda n: scene.send(requirements=[skill]),
        lambda n: scene.publish(*(message({"n": n}, to=spread(agents, n + k)) for k in range(3))),
        lambda n: scene.publish(message({"n": n}, requirements=[skill], priority=n % 10 + 1)),
    ]


async def fleet(scene: Scene) -> tuple[list[RegisteredAgent], str]:
    """Register six agents, three of which share a capability."""
    skill = scene.named("skill")
    agents = [await scene.agent(f"agent-{n}", capabilities=[skill] if n % 2 else []) for n in range(6)]
    return agents, skill


async def disturb(scene: Scene, disturbance: Callable[[], None], *, times: int = 1) -> None:
    """Break something under load, and go on until everything works again."""
    agents, skill = await fleet(scene)
    async with scene.load(*publishers(scene, agents, skill)):
        await scene.more_received(30)
        for _ in range(times):
            with scene.ledger.broken():
                await asyncio.to_thread(disturbance)
                await scene.whole_again(agents[0])
    await scene.balance()
    assert len(scene.ledger.repeated) <= times * SHARDS * SHARD_IN_FLIGHT_MAX


async def test_a_worker_killed_while_receivers_hold_requests_loses_nothing(
    broker: WholeBroker, scene: Scene
) -> None:
    gates = [Gate() for _ in range(4)]
    agents = [await scene.agent(f"holding-{number}", gate) for number, gate in enumerate(gates)]
    under_way: set[str] = set()
    for _ in range(3):
        for number in range(40):
            await scene.publish(message({"n": number}, to=spread(agents, number)))
        held = await scene.held(*gates, at_least=len(agents) * ENDPOINT_IN_FLIGHT_MAX)
        under_way |= {request.id for request in held}
        with scene.ledger.broken():
            await asyncio.to_thread(broker.signal, "worker", KILL)
            for gate in gates:
                gate.open()
            await scene.drain()
            for gate in gates:
                gate.shut()
    await scene.balance()
    # Every one of these was sent again, and nothing else was.
    assert scene.ledger.repeated == under_way


async def test_a_worker_told_to_stop_waits_for_what_receivers_hold(broker: WholeBroker, scene: Scene) -> None:
    gate = Gate()
    agents = [await scene.agent(f"holding-{number}", gate) for number in range(4)]
    await scene.publish(*(message({"n": n}, to=spread(agents, n)) for n in range(40)))
    await scene.held(gate, at_least=len(agents) * ENDPOINT_IN_FLIGHT_MAX)
    before = broker.draining()
    stopping = asyncio.create_task(asyncio.to_thread(broker.signal, "worker", TERM))
    await asyncio.to_thread(until, lambda: broker.draining() == before + SHARDS, what="the drain")
    gate.open()
    await stopping
    await scene.balance()
    assert scene.ledger.repeated == set()


@pytest.mark.parametrize("role", ["worker", "recorder", "keeper", "gateway"])
async def test_a_process_killed_under_load_loses_nothing(
    role: str, broker: WholeBroker, scene: Scene
) -> None:
    await disturb(scene, lambda: broker.signal(role, KILL))
    if role != "worker":
        assert scene.ledger.repeated == set()


@pytest.mark.parametrize("role", ["worker", "recorder", "keeper", "gateway"])
async def test_a_process_restarted_under_load_repeats_nothing(
    role: str, broker: WholeBroker, scene: Scene
) -> None:
    await disturb(scene, lambda: broker.signal(role, TERM))
    assert scene.ledger.repeated == set()


async def test_valkey_killed_under_load_loses_nothing_acknowledged(broker: WholeBroker, scene: Scene) -> None:
    await disturb(scene, lambda: broker.kill_store("valkey"), times=2)


async def test_postgres_killed_under_load_holds_up_nothing_but_the_record(
    broker: WholeBroker, scene: Scene
) -> None:
    await disturb(scene, lambda: broker.kill_store("postgres"))
    assert scene.ledger.repeated == set()
