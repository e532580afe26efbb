"""The processes of a peer: started with the addresses of its stores, ended with everything below them."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Final

from msgspec import Struct, field

from broker.bench.control import LINE_BYTES_MAX, Child

PARTS: Final = Path(__file__).parent / "parts"
STOP_S: Final = 10.0
LOG_TAIL_BYTES: Final = 2_000


class Published(Struct, kw_only=True):
    """A publisher's report; CLOCK_MONOTONIC."""

    first_ns: int
    last_ns: int
    late_ms_max: float = 0.0


class Agents(Struct):
    """Order: publish to these from now on."""

    agents: list[str]


class Publish(Struct):
    """Order: publish so many, at so many a second or flat out (0)."""

    count: int
    rate: int = 0


class Team(Struct):
    """Running processes: the pids at the tops of the workers' trees, and the publisher."""

    publisher: Child
    publisher_pid: int
    workers: list[int] = field(default_factory=list)


def surroundings(env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a peer's process: this one's, the shared parts, its addresses."""
    # Not our bytecode directory nor our path: its packages are its own.
    return {**os.environ, "PYTHONPATH": str(PARTS), "PYTHONDONTWRITEBYTECODE": "1", **env}


@asynccontextmanager
async def background(
    command: list[str], *, home: Path, env: Mapping[str, str], log: Path
) -> AsyncIterator[int]:
    """Run a command in a session of its own; yield its pid, end everything in that session."""
    with log.open("ab") as sink:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            cwd=home,
            env=surroundings(env),
            start_new_session=True,
        )
    try:
        yield process.pid
    finally:
        await _end(process)


@asynccontextmanager
async def obedient(
    command: list[str], *, home: Path, env: Mapping[str, str], log: Path
) -> AsyncIterator[tuple[Child, int]]:
    """Run a command that takes orders on stdin; yield it and its pid, end it."""
    with log.open("ab") as sink:
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=sink,
            limit=LINE_BYTES_MAX,
            cwd=home,
            env=surroundings(env),
            start_new_session=True,
        )
    try:
        yield Child(process, f"{home.name}/{Path(command[1]).name}"), process.pid
    finally:
        if process.stdin is not None:
            process.stdin.close()
        await _end(process)


def tail(log: Path) -> str:
    """Return the end of what the processes said."""
    return log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace").strip() if log.exists() else ""


async def _end(process: asyncio.subprocess.Process) -> None:
    for signum in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signum)
        with suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await process.wait()
                break
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)  # children that outlived it
