"""The frame of every process of the demonstration: takes its brief from stdin, tells its counts on stdout.

An actor ends when its stdin closes: nothing survives a stage that was killed. Counts go out as a JSON line
five times a second.
"""

import asyncio
import socket
import sys
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec
import uvloop

from broker.demo.cast import Part, Task

TELL_S: Final = 0.2
LINE_BYTES_MAX: Final = 64 * 1024 * 1024
"""The bot's brief carries its tasks; 100,000 of them fit."""


class Brief(msgspec.Struct, kw_only=True):
    """What an actor must know: the broker, who it is, its endpoint's socket (an inherited descriptor), and
    its part or its tasks."""

    api_url: str
    api_key: str
    agent_id: str
    secret: str
    endpoint_fd: int
    part: Part | None = None
    tasks: list[Task] = msgspec.field(default_factory=list)
    tasks_per_s: int = 0


class Counts(msgspec.Struct, kw_only=True):
    """What an actor has done so far; `asked` and `answers` only since it told the last time.

    `asked`: ids of tasks. `answers`: the task answered and the milliseconds since it was asked.
    """

    got: int = 0
    worked: int = 0
    refused: int = 0
    hung: int = 0
    repeated: int = 0
    trouble: int = 0
    asked: list[str] = msgspec.field(default_factory=list)
    answers: list[tuple[str, int]] = msgspec.field(default_factory=list)


Act = Callable[[Brief, Counts, socket.socket, asyncio.Event], Awaitable[None]]
"""Plays until the event is set."""


def play(act: Act) -> None:
    """Run an actor's process."""
    uvloop.run(_play(act))


async def _play(act: Act) -> None:
    reader = asyncio.StreamReader(limit=LINE_BYTES_MAX)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    brief = msgspec.json.decode(await reader.readline(), type=Brief)
    stop = asyncio.Event()
    counts = Counts()
    with socket.socket(fileno=brief.endpoint_fd) as listening:
        listening.setblocking(False)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_tell(counts, stop))
            tasks.create_task(_until_closed(reader, stop))
            tasks.create_task(_act(act, brief, counts, listening, stop))
    transport.close()


async def _act(act: Act, brief: Brief, counts: Counts, listening: socket.socket, stop: asyncio.Event) -> None:
    await act(brief, counts, listening, stop)


async def _until_closed(reader: asyncio.StreamReader, stop: asyncio.Event) -> None:
    while await reader.readline():
        pass
    stop.set()


async def _tell(counts: Counts, stop: asyncio.Event) -> None:
    while not stop.is_set():
        sys.stdout.buffer.write(msgspec.json.encode(counts) + b"\n")
        sys.stdout.buffer.flush()
        counts.asked, counts.answers = [], []
        try:
            async with asyncio.timeout(TELL_S):
                await stop.wait()
        except TimeoutError:
            continue
