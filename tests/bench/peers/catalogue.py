"""Who is measured beside Agent Broker: how each is installed and started, what it promises and what it lacks.

Worker processes and concurrency are the best of those tried on two cores; README.md says which were tried.
"""

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

from msgspec import Struct

from bench.peers import install

HERE: Final = Path(__file__).parent


class Crew(Struct, frozen=True):
    """The commands of an installed peer, run in `home`; `workers` processes of the first."""

    home: Path
    worker: list[str]
    publisher: list[str]
    workers: int = 1


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
    return Crew(home, [python, "worker.py"], [python, "publish.py"])


async def _taskiq() -> Crew:
    home = HERE / "taskiq"
    programs = await install.python("taskiq")
    worker = [
        str(programs / "taskiq"),
        "worker",
        "tasks:broker",
        "--workers",
        "1",
        "--max-async-tasks",
        "200",
    ]
    # No line a task. Acknowledged when executed: rows are the result, and a failed task is sent again first.
    worker += ["--log-level", "WARNING", "--ack-type", "when_executed"]
    return Crew(home, worker, [str(programs / "python"), "publish.py"])


async def _bullmq() -> Crew:
    home = await install.node("bullmq", HERE / "parts" / "record.sql")
    return Crew(home, ["node", "worker.js"], ["node", "publish.js"])


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
