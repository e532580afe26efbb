"""The stage: the actors' processes, and what they have told of themselves so far."""

import asyncio
import os
import socket
import sys
from collections import Counter
from typing import Final, Self

import msgspec

from broker.demo.actor import LINE_BYTES_MAX, Brief, Counts
from broker.demo.cast import BOT, SCRAPERS, Part

STOP_S: Final = 5.0


class Actor:
    """One agent: its address exists at once, its process from `enter` on.

    The socket is bound before the agent is registered and only listened on when its process has come, so an
    agent that is not there yet refuses connections at an address nobody else can take.
    """

    def __init__(self, role: str, module: str, part: Part | None) -> None:
        self.role = role
        self.name = role
        """What it is registered as: its role, with a number where that name was taken."""
        self.part = part
        self.counts = Counts()
        self.asked: list[str] = []
        self.answers: Counter[str] = Counter()
        self.round_trips_ms: list[int] = []
        self._module = module
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.bind(("127.0.0.1", 0))
        self._process: asyncio.subprocess.Process | None = None
        self._listener: asyncio.Task[None] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._socket.getsockname()[1]}/inbox"

    @property
    def is_here(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def descriptor(self) -> int:
        return self._socket.fileno()

    async def enter(self, brief: Brief) -> None:
        """Start the process and hand it its brief. Its session is its own: Ctrl-C reaches only the stage."""
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            self._module,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            pass_fds=(brief.endpoint_fd,),
            limit=LINE_BYTES_MAX,
            start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        assert self._process.stdin is not None
        self._process.stdin.write(msgspec.json.encode(brief) + b"\n")
        await self._process.stdin.drain()
        self._listener = asyncio.create_task(self._listen(self._process))

    async def leave(self) -> None:
        """Close its stdin, wait a little, kill it if it stays."""
        self._socket.close()
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            async with asyncio.timeout(STOP_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()
        if self._listener is not None:
            await self._listener

    async def _listen(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while line := await process.stdout.readline():
            self.counts = msgspec.json.decode(line, type=Counts)
            self.asked += self.counts.asked
            for task_id, milliseconds in self.counts.answers:
                self.answers[task_id] += 1
                self.round_trips_ms.append(milliseconds)


class Stage:
    """Everybody, and the certainty that all of them leave."""

    def __init__(self) -> None:
        self.bot = Actor(BOT, "broker.demo.bot", None)
        self.scrapers = [Actor(part.name, "broker.demo.scraper", part) for part in SCRAPERS]

    @property
    def actors(self) -> list[Actor]:
        return [self.bot, *self.scrapers]

    @property
    def steps(self) -> int:
        """Return a number that grows with everything anybody does."""
        taken = sum(actor.counts.got + actor.counts.worked + actor.counts.refused for actor in self.actors)
        return taken + len(self.bot.asked)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*(actor.leave() for actor in self.actors))
