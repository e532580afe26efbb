"""The broker of a benchmark: as many processes as asked for, all of them working, none of them left."""

import os
from pathlib import Path

import pytest
from bench.kit.broker import CpuMeter, another, fresh_broker

from broker.bench.processes import read_table, role_of, tree
from broker.client.http import AgentClient

TESTS = Path(__file__).resolve().parents[1]


def parts(roots: list[int]) -> list[str]:
    """Return the parts of the broker's own processes, several times where there are several."""
    table = read_table()
    found = []
    for pid in (pid for root in roots for pid in tree(table, root)):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
        role = role_of(table[pid].name, command)
        if role is not None and table[pid].name not in ("postgres", "valkey-server"):
            found.append(role)
    return sorted(found)


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(400)
async def test_broker_has_the_processes_asked_for_and_ends_with_all_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))  # as the programs are run
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    async with fresh_broker(workers=2, gateways=2, recorders=2) as broker:
        meter = CpuMeter(broker.roots)
        meter.start()
        assert parts(broker.roots) == sorted(["gateway", "worker", "recorder"] * 2 + ["keeper"])
        assert len(set(broker.api_urls)) == 2
        for url in broker.api_urls:
            async with AgentClient(url, broker.api_key) as client:
                agent = await client.register(f"agent-{url[-5:]}", capabilities=["anything"])
                # Its row is read back: worker and recorder are at work, not only there.
                sent = await client.messages.send({"x": 1}, to=agent.id, timeout_ms=30_000)
                assert (await client.messages.show(sent.id)).to_agent_id == agent.id
        assert {"gateway", "worker", "recorder", "valkey", "postgres"} <= set(meter.seconds())
        async with another(broker, "worker", "--trades", "route", name="router") as pid:
            assert pid in broker.roots
            assert parts(broker.roots).count("worker") == 3
        roots = list(broker.roots)
        assert pid not in roots
    assert [root for root in roots if root in read_table()] == []
    assert os.listdir(tmp_path) == []
