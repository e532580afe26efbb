"""Who is measured beside Agent Broker: how each is installed and started, what it promises and what it lacks.

Peers deserve their best, and what is best differs from machine to machine: before the turns every setting of
a peer is tried, and the fastest is measured.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from msgspec import Struct, field

from bench.peers import install

HERE: Final = Path(__file__).parent


class Setting(Struct, frozen=True):
    """How a worker is run: so many processes, further environment and arguments."""

    title: str
    processes: int = 1
    env: dict[str, str] = field(default_factory=dict)
    arguments: list[str] = field(default_factory=list)


class Crew(Struct, frozen=True):
    """The commands of an installed peer, run in `home`, and the settings its worker may be run with."""

    home: Path
    worker: list[str]
    publisher: list[str]
    settings: list[Setting]


class Peer(Struct, frozen=True):
    """A peer; `ready` installs it and returns its commands, or raises install.Missing."""

    name: str
    title: str
    ready: Callable[[], Awaitable[Crew]]
    promises: str
    lacks: str


async def _faststream() -> Crew:
    home = HERE / "faststream"
    python = str(await install.python("faststream") / "python")
    ways = ((1, 4, 64), (1, 8, 128), (2, 4, 64), (2, 8, 32))
    settings = [_batches(processes, consumers, batch) for processes, consumers, batch in ways]
    return Crew(home, [python, "worker.py"], [python, "publish.py"], settings)


async def _taskiq() -> Crew:
    home = HERE / "taskiq"
    programs = await install.python("taskiq")
    # No line a task. Acknowledged when executed: rows are the result, and a failed task is sent again first.
    options = ["--log-level", "WARNING", "--ack-type", "when_executed"]
    worker = [str(programs / "taskiq"), "worker", "tasks:broker", *options]
    settings = [_tasks(processes, tasks) for processes, tasks in ((1, 200), (1, 50), (1, 800), (2, 100))]
    return Crew(home, worker, [str(programs / "python"), "publish.py"], settings)


async def _bullmq() -> Crew:
    home = await install.node("bullmq", HERE / "parts" / "record.sql")
    settings = [_jobs(processes, jobs) for processes, jobs in ((1, 200), (1, 50), (1, 800), (2, 100))]
    return Crew(home, ["node", "worker.js"], ["node", "publish.js"], settings)


def _batches(processes: int, consumers: int, batch: int) -> Setting:
    env = {"CONSUMERS": str(consumers), "BATCH": str(batch)}
    return Setting(f"{processes} x {consumers} batches of {batch}", processes, env)


def _tasks(processes: int, tasks: int) -> Setting:
    # taskiq starts its processes itself.
    arguments = ["--workers", str(processes), "--max-async-tasks", str(tasks)]
    return Setting(f"{processes} x {tasks} tasks", arguments=arguments)


def _jobs(processes: int, jobs: int) -> Setting:
    return Setting(f"{processes} x {jobs} jobs", processes, {"CONCURRENCY": str(jobs)})


OURS_PROMISES: Final = (
    "at least once from the publisher's answer on, retries with backoff, routing by capability, signatures, "
    "deduplication, a bound and a breaker per endpoint, a ledger the rows are written from"
)
LACKING: Final = "capability routing, signatures, deduplication, breaker, ledger"
PEERS: Final = (
    Peer(
        "faststream",
        "FastStream + aiohttp + asyncpg",
        _faststream,
        promises="at least once; retries in the worker, then the stream's end; acknowledged after the rows",
        lacks=f"{LACKING}; a slow endpoint holds up its whole batch; the stream is never trimmed",
    ),
    Peer(
        "taskiq",
        "taskiq + aiohttp + asyncpg",
        _taskiq,
        promises="at least once; retries in the worker, then a new task; acknowledged after the rows",
        lacks=f"{LACKING}; slow endpoints use up the worker's slots; the stream is never trimmed",
    ),
    Peer(
        "bullmq",
        "BullMQ + undici + pg",
        _bullmq,
        promises="at least once; delayed retries with backoff; completed after the rows, then removed",
        lacks=f"{LACKING}; slow endpoints use up the worker's slots",
    ),
)
STREAM_PART: Final = "nats"
NAMES: Final = (*(peer.name for peer in PEERS), STREAM_PART)
