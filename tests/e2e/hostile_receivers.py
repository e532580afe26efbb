"""Endpoints that mean no good, on real sockets: each takes a request and then does its worst.

Whoever answers notes how long its connection was held, from the request to its end: the slot it cost.
"""

import asyncio
import gzip
import socket
import ssl
import struct
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import NamedTuple

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
GIGABYTE = 10**9
BOMB = gzip.compress(bytes(64 * 1024 * 1024), compresslevel=1)
PIECE = b"z" * 65_536


class Link(NamedTuple):
    """One connection after its request has been read."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    elsewhere: str
    """A URL of a server that nobody should call."""

    async def say(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def until_closed(self) -> None:
        """Wait for the end, or for another request over the same connection: that one is hung up on, which
        the broker takes for a connection gone stale."""
        await self.reader.read(1)


Script = Callable[[Link], Awaitable[None]]


def says(data: bytes) -> Script:
    async def script(link: Link) -> None:
        await link.say(data)
        await link.until_closed()

    return script


def drips(first: bytes, again: bytes) -> Script:
    async def script(link: Link) -> None:
        await link.say(first)
        while True:
            await link.say(again)
            await asyncio.sleep(0.05)

    return script


def pours(first: bytes, again: bytes, times: int = 10**9) -> Script:
    async def script(link: Link) -> None:
        await link.say(first)
        for _ in range(times):
            await link.say(again)
        await link.until_closed()

    return script


async def is_silent(link: Link) -> None:
    await link.until_closed()


async def resets_in_the_body(link: Link) -> None:
    await link.say(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{")
    sock = link.writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    link.writer.transport.abort()


async def redirects(link: Link) -> None:
    # Neither elsewhere nor back to itself, again and again.
    await link.say(b"HTTP/1.1 307 T\r\nLocation: %b\r\nContent-Length: 0\r\n\r\n" % link.elsewhere.encode())
    await link.until_closed()


HEAD = b"HTTP/1.1 200 OK\r\n"
SCRIPTS: dict[str, Script] = {
    "accepts and is silent": is_silent,
    "drips headers": drips(HEAD, b"X: y\r\n"),
    "drips the body": drips(HEAD + b"Content-Length: 99999\r\n\r\n", b"z"),
    "endless chunks": pours(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + PIECE + b"\r\n"),
    "a gigabyte": pours(HEAD + b"Content-Length: %d\r\n\r\n" % GIGABYTE, PIECE, GIGABYTE // len(PIECE)),
    "a compressed bomb": says(
        HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(BOMB) + BOMB
    ),
    "100,000 headers": pours(HEAD, b"".join(b"X-%d: y\r\n" % number for number in range(1_000)), 100),
    "resets in the body": resets_in_the_body,
    "redirects": redirects,
    "junk Retry-After": says(
        b"HTTP/1.1 503 S\r\nRetry-After: -1e9, perhaps on \xff Tuesday\r\nContent-Length: 0\r\n\r\n"
    ),
    "gone": says(b"HTTP/1.1 410 G\r\nContent-Length: 0\r\n\r\n"),
    "a flood of 1xx": pours(b"", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 100),
    "204 with a body": says(b"HTTP/1.1 204 N\r\nContent-Length: 5\r\n\r\nhello" + OK),
}


class Hostile:
    """The servers. `held_s`: per server, how long each connection was held; `strayed`: calls nobody should
    have made."""

    def __init__(self) -> None:
        self.urls: dict[str, str] = {}
        self.held_s: dict[str, list[float]] = {}
        self.strayed = 0
        self.asked: dict[str, list[dict[str, str]]] = {}
        """The headers of the requests that came, by server."""
        self._stack = AsyncExitStack()
        self._tasks: set[asyncio.Task[None]] = set()

    async def open(self, certificates: Mapping[str, ssl.SSLContext]) -> None:
        elsewhere = await self._serve("elsewhere", self._stray, None)
        for name, script in SCRIPTS.items():
            self.urls[name] = await self._serve(name, self._scripted(name, script, elsewhere), None)
        for name, context in certificates.items():
            self.urls[name] = await self._serve(name, self._scripted(name, says(OK), elsewhere), context)
        self.urls["never accepts"] = self._full()

    async def close(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._stack.aclose()

    async def _serve(
        self,
        name: str,
        handler: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
        tls: ssl.SSLContext | None,
    ) -> str:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.current_task()
            assert task is not None
            self._tasks.add(task)
            try:
                with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                    await handler(reader, writer)
            finally:
                writer.transport.abort()
                self._tasks.discard(task)

        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
        self._stack.callback(server.close)
        scheme = "http" if tls is None else "https"
        return f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}/"

    def _scripted(
        self, name: str, script: Script, elsewhere: str
    ) -> Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]:
        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            lines = (line.partition(":") for line in head.split("\r\n")[1:] if line)
            headers = {field.lower(): value.strip() for field, _, value in lines}
            self.asked.setdefault(name, []).append(headers)
            await reader.readexactly(int(headers["content-length"]))
            began = time.monotonic()
            try:
                await script(Link(reader, writer, elsewhere))
            finally:
                self.held_s.setdefault(name, []).append(time.monotonic() - began)

        return handler

    async def _stray(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.strayed += 1

    def _full(self) -> str:
        """Return the URL of a socket whose queue is full: whoever connects hears nothing."""
        sock = self._stack.enter_context(socket.socket())
        sock.bind(("127.0.0.1", 0))
        sock.listen(0)
        for _ in range(4):
            filler = self._stack.enter_context(socket.socket())
            filler.setblocking(False)
            with suppress(BlockingIOError):
                filler.connect(sock.getsockname())
        return f"http://127.0.0.1:{sock.getsockname()[1]}/"


@asynccontextmanager
async def hostile(certificates: Mapping[str, ssl.SSLContext]) -> AsyncIterator[Hostile]:
    """Serve all of them; `certificates`: servers that speak TLS, by name."""
    them = Hostile()
    await them.open(certificates)
    try:
        yield them
    finally:
        await them.close()
