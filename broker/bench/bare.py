"""The least that can speak to Redis and to HTTP endpoints: what the ceiling is measured with.

No retries, no deadlines, no pools with rules, no reconnecting: any surprise is an exception. Never used by
the product.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any, Final, cast
from urllib.parse import unquote, urlsplit

import hiredis

IN_FLIGHT_PER_PORT: Final = 4
"""The product's default for one endpoint."""


class RedisWire(asyncio.Protocol):
    """Commands in order over one connection, answers in the same order."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader()
        self._waiting: deque[asyncio.Future[Any]] = deque()  # a reply is whatever the command answers
        self._transport: asyncio.WriteTransport | None = None

    @classmethod
    async def connect(cls, url: str) -> "RedisWire":
        """Connect, authenticate and select as `redis://` or `unix://` URLs say."""
        loop = asyncio.get_running_loop()
        parts = urlsplit(url)
        if parts.scheme == "unix":
            _, wire = await loop.create_unix_connection(cls, unquote(parts.path))
        else:
            _, wire = await loop.create_connection(cls, parts.hostname or "127.0.0.1", parts.port or 6379)
        if parts.password:
            await wire.call("AUTH", unquote(parts.username or "default"), unquote(parts.password))
        database = parts.path.strip("/") if parts.scheme != "unix" else ""
        if database:
            await wire.call("SELECT", database)
        return wire

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # a stream connection can be written

    def data_received(self, data: bytes) -> None:
        self._reader.feed(data)
        while (reply := self._reader.gets()) is not False:
            future = self._waiting.popleft()
            if future.done():
                continue
            if isinstance(reply, Exception):
                future.set_exception(reply)
            else:
                future.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_exception(exc or ConnectionError("Redis closed the connection"))

    def call(self, *arguments: str | bytes | int) -> "asyncio.Future[Any]":
        """Send one command and return the future of its reply."""
        assert self._transport is not None
        future = asyncio.get_running_loop().create_future()
        self._waiting.append(future)
        packed = hiredis.pack_command(arguments)  # type: ignore[arg-type]  # stub knows 1-tuples only
        self._transport.write(packed)
        return future

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class Poster(asyncio.Protocol):
    """One keep-alive connection to one port; one request at a time."""

    __slots__ = ("_answered", "_rest", "_transport")

    def __init__(self, answered: Callable[["Poster"], None]) -> None:
        self._answered = answered
        self._rest = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # a stream connection can be written

    def post(self, request: bytes) -> None:
        assert self._transport is not None
        self._transport.write(request)

    def data_received(self, data: bytes) -> None:
        # The sink's answers are 2 bytes of body long and never come in pieces in practice.
        self._rest += data
        if not self._rest.endswith(b"\r\n\r\n{}"):
            return
        if not self._rest.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"the sink answered {self._rest[:40]!r}")
        self._rest = b""
        self._answered(self)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


class Port:
    """One endpoint: its connections and what waits for one of them."""

    def __init__(self, number: int, answered: Callable[[Any], None]) -> None:
        self._head = f"POST /hook HTTP/1.1\r\nHost: 127.0.0.1:{number}\r\nContent-Length: ".encode()
        self._number = number
        self._answered = answered
        self._idle: list[Poster] = []
        self._busy: dict[Poster, Any] = {}  # what the caller wants back when its request is answered
        self._waiting: deque[tuple[bytes, Any]] = deque()

    async def open(self) -> None:
        loop = asyncio.get_running_loop()
        for _ in range(IN_FLIGHT_PER_PORT):
            _, poster = await loop.create_connection(lambda: Poster(self._done), "127.0.0.1", self._number)
            self._idle.append(poster)

    def post(self, webhook_id: str, body: bytes, token: object) -> None:
        """Send when a connection is free; `token` comes back through `answered`."""
        request = b"%b%d\r\nwebhook-id: %b\r\n\r\n%b" % (self._head, len(body), webhook_id.encode(), body)
        if self._idle:
            poster = self._idle.pop()
            self._busy[poster] = token
            poster.post(request)
        else:
            self._waiting.append((request, token))

    def close(self) -> None:
        for poster in (*self._idle, *self._busy):
            poster.close()

    def _done(self, poster: Poster) -> None:
        token = self._busy.pop(poster)
        if self._waiting:
            request, self._busy[poster] = self._waiting.popleft()
            poster.post(request)
        else:
            self._idle.append(poster)
        self._answered(token)
