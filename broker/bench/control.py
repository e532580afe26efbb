"""Children of the benchmark and how they are told what to do: JSON lines over stdin and stdout.

A child that sees its stdin close ends by itself, so that nothing survives a killed driver. One order at a
time: the driver writes a line, the child answers with a line.
"""

import asyncio
import contextlib
import sys
from collections.abc import Awaitable, Callable
from typing import Any, Final, Self, TypeVar

import msgspec

LINE_BYTES_MAX: Final = 16 * 1024 * 1024
"""The longest line is the list of agents; 100,000 of them fit."""
STOP_S: Final = 5.0

Order = dict[str, Any]  # JSON of our own making; each child decodes the fields it wants into its own type
Handler = Callable[[bytes], Awaitable[msgspec.Struct]]
Reply = TypeVar("Reply", bound=msgspec.Struct)


class ChildFailed(Exception):
    """A child ended or answered with something that is not the expected reply."""


class Nothing(msgspec.Struct):
    """Reply to an order that has nothing to say."""


class Child:
    """A child process of the benchmark, started as a module of this package."""

    def __init__(self, process: asyncio.subprocess.Process, name: str) -> None:
        self._process = process
        self._name = name

    @classmethod
    async def start(cls, module: str, *arguments: str) -> Self:
        """Start `python -m module` in a session of its own, so that Ctrl-C reaches only the driver."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=LINE_BYTES_MAX,
            start_new_session=True,
        )
        return cls(process, module.rpartition(".")[2])

    @property
    def pid(self) -> int:
        return self._process.pid

    async def ask(self, order: msgspec.Struct, reply: type[Reply]) -> Reply:
        """Give one order and return the child's answer.

        Raises: ChildFailed.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(ConnectionError):
            self._process.stdin.write(msgspec.json.encode(order) + b"\n")
            await self._process.stdin.drain()
        line = await self._process.stdout.readline()
        try:
            return msgspec.json.decode(line, type=reply)
        except msgspec.MsgspecError as error:
            raise ChildFailed(f"{self._name} answered {line[:200]!r}: {error}") from error

    async def stop(self) -> None:
        """Close its stdin, wait a little, kill it if it stays."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            async with asyncio.timeout(STOP_S):
                await self._process.wait()
        except TimeoutError:
            self._process.kill()
            await self._process.wait()


async def obey(handle: Handler) -> None:
    """Answer orders from stdin until it closes. What a handler raises ends the child, with a traceback."""
    reader = asyncio.StreamReader(limit=LINE_BYTES_MAX)
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    try:
        while line := await reader.readline():
            reply = await handle(line)
            sys.stdout.buffer.write(msgspec.json.encode(reply) + b"\n")
            sys.stdout.buffer.flush()
    finally:
        transport.close()
