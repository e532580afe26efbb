"""The comparison with peers: what it says of its runs, and the FastStream peer at work, where it installs."""

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
import pytest
from bench.kit.report import Result
from bench.peers import install
from bench.peers.catalogue import PEERS, Crew
from bench.peers.report import Measured, findings
from bench.peers.stores import Counted, Stores
from bench.peers.team import Agents, Publish, Published, background, obedient
from bench.peers.turn import Outcome

from broker.bench.control import Nothing
from broker.bench.report import Run
from broker.bench.subject import Subject

ROOT = Path(__file__).resolve().parents[2]
PEERS_HOME = ROOT / "tests" / "bench" / "peers"
FASTSTREAM = PEERS[0]
AGENT = "0190b5f0-1234-7abc-8def-0123456789ab"
RECORDED_S = 30.0
LOOK_S = 0.05


def run_of(*, per_second: float = 100.0, missing: int = 0) -> Run:
    cpu_us = {"worker": 50.0, "recorder": 10.0, "valkey": 5.0}
    return Run(messages=10, per_second=per_second, published_per_second=1.0, cpu_us=cpu_us, missing=missing)


def measured(outcome: Outcome) -> Measured:
    found = Measured()
    found.ours.flat_out.append(run_of(per_second=300.0))
    found.entry(FASTSTREAM).add(outcome)
    return found


def test_rates_of_peers_stand_beside_ours_with_the_ratio() -> None:
    found = findings(measured(Outcome(run_of(), Counted(10, 10, 11, 1))))
    ours, theirs = found.tables[0].rows
    assert [ours[3], theirs[3]] == ["", "3.0x"]
    assert theirs[5] == 1  # failed attempts
    assert found.wrong == []


def test_all_processes_of_the_broker_are_its_worker_in_the_table_of_cpu() -> None:
    found = findings(measured(Outcome(run_of(), Counted(10, 10, 10, 0))))
    assert found.tables[1].rows[0][1:3] == [60.0, 5.0]


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome(run_of(missing=1), Counted(10, 10, 10, 0)),
        Outcome(run_of(), Counted(10, 9, 10, 0)),
    ],
)
def test_lost_message_or_row_of_a_peer_is_wrong(outcome: Outcome) -> None:
    assert len(findings(measured(outcome)).wrong) == 1


def test_settings_tried_are_shown_and_the_fastest_is_the_one_measured() -> None:
    found = measured(Outcome(run_of(), Counted(10, 10, 10, 0)))
    entry = found.entry(FASTSTREAM)
    entry.tried = {"slow": 1.0, "quick": 3.0, "middling": 2.0}
    assert entry.best == "quick"
    assert [row[-1] for row in findings(found).tables[-1].rows] == ["", "measured", ""]


def test_peer_that_was_skipped_is_in_the_notes_with_the_reason() -> None:
    found = measured(Outcome(run_of(), Counted(10, 10, 10, 0)))
    found.skipped["BullMQ"] = "node is not installed"
    assert "Skipped BullMQ: node is not installed" in findings(found).notes


def test_lock_files_hold_hashes_and_no_addresses() -> None:
    python = sorted(PEERS_HOME.glob("*/requirements.lock"))
    assert [lock.parent.name for lock in python] == ["faststream", "nats", "taskiq"]
    for lock in python:
        text = lock.read_text()
        assert "://" not in text
        pinned = re.findall(r"^[a-z].*==.*\\\n(?:    --hash=sha256:)", text, re.MULTILINE)
        assert len(pinned) == len(re.findall(r"^[a-z]", text, re.MULTILINE))
    node = msgspec.json.decode((PEERS_HOME / "bullmq" / "package-lock.json").read_bytes())
    packages = [package for name, package in node["packages"].items() if name]
    assert packages
    assert all("integrity" in package and "resolved" not in package for package in packages)


async def test_peer_whose_program_is_not_here_is_missing_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(install.Missing, match="node is not installed"):
        await install.node("bullmq")


@pytest.fixture
async def faststream() -> Crew:
    try:
        return await FASTSTREAM.ready()
    except install.Missing as missing:
        pytest.skip(str(missing))


@pytest.fixture
async def stores(servers: Callable[[str], str]) -> AsyncIterator[Stores]:
    redis_url, database_url = servers("redis embedded"), servers("postgres embedded")
    subject = Subject(api_url="", api_key="", redis_url=redis_url, database_url=database_url, roots=[])
    stores = Stores(subject)
    yield stores
    await stores.drop()


@pytest.fixture
async def moody_port() -> AsyncIterator[int]:
    """An endpoint that answers 503 to every other request, beginning with the first."""
    codes = iter(["503 No", "200 OK"] * 100)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"content-length: (\d+)", head.lower())
        assert length
        await reader.readexactly(int(length[1]))
        writer.write(f"HTTP/1.1 {next(codes)}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1]


async def recorded(stores: Stores, *, delivered: int) -> Counted:
    deadline = monotonic() + RECORDED_S
    # Rows of another process set no event of ours.
    while (found := await stores.count()).delivered < delivered and monotonic() < deadline:  # noqa: ASYNC110
        await asyncio.sleep(LOOK_S)
    return found


@pytest.mark.bench
@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(400)  # the first time it installs the peer
async def test_faststream_peer_retries_what_failed_and_records_every_attempt(
    faststream: Crew, stores: Stores, moody_port: int, tmp_path: Path
) -> None:
    await stores.renew({AGENT: f"http://127.0.0.1:{moody_port}/hook"})
    surroundings: dict[str, Any] = {
        "home": faststream.home,
        "env": {"REDIS_URL": stores.redis_url, "DATABASE_URL": stores.database_url},
        "log": tmp_path / "log",
    }
    async with (
        background(faststream.worker, **surroundings),
        obedient(faststream.publisher, **surroundings) as (publisher, _),
    ):
        await publisher.ask(Agents([AGENT]), Nothing)
        await publisher.ask(Publish(1), Published)
        found = await recorded(stores, delivered=1)
    assert found == Counted(messages=1, delivered=1, attempts=2, failed=1), (tmp_path / "log").read_text()


@pytest.mark.bench
@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_quick_run_beside_faststream_loses_nothing(faststream: Crew, tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "tests"), "TMPDIR": str(tmp_path / "tmp")}
    ended = subprocess.run(
        (sys.executable, "-m", "bench.peers", "--quick", "--out", str(tmp_path / "out")),
        cwd=ROOT, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    result = msgspec.json.decode((tmp_path / "out" / "peers.json").read_bytes(), type=Result)
    assert result.wrong == []
    rates = result.tables[0]
    assert [row[0] for row in rates.rows] == ["Agent Broker", FASTSTREAM.title]
    assert all(row[1] and row[-2:] == [0, 0] for row in rates.rows)  # a rate, no duplicates, none missing
    assert [row[2] for row in result.tables[2].rows] == [100, 100]  # each has latencies of its paced run
    assert os.listdir(tmp_path / "tmp") == []
