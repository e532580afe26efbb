"""Building blocks for tests of the streams: envelopes, awaited callbacks, a proxy that misbehaves."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple
from urllib.parse import urlsplit, urlunsplit

import pytest
import redis
from cluster import is_cluster, keys_of

from broker.streams.connection import Connection, Reply
from broker.streams.keys import Keys
from broker.streams.moves import DUPLICATE, NOWHERE, RouteBatch, call_route
from broker.streams.settlement import Settlement, call_settle
from schema.errors import BrokerError

OWNER = "7:tester"
WINDOW_MS = 1_000
NOW_MS = 1_700_000_000_500


async def answer_of(start: Callable[[Callable[[Reply], None]], None]) -> Reply:
    """Return what a call with a callback is answered; raises where that is an error."""
    future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
    start(future.set_result)
    async with asyncio.timeout(10):
        reply = await future
    if isinstance(reply, BrokerError):
        raise reply
    return reply


async def route(
    connection: Connection, keys: Keys, batch: RouteBatch, *, owner: str = OWNER, now_ms: int = NOW_MS
) -> list[bytes | None]:
    """Return, per move, its entry id, b"" where it lies nowhere, None for a duplicate."""
    reply = await answer_of(
        lambda on_reply: call_route(
            connection, keys, batch, owner=owner, window_ms=WINDOW_MS, now_ms=now_ms, on_reply=on_reply
        )
    )
    return [None if one == DUPLICATE else b"" if one == NOWHERE else one.encode() for one in reply]


async def settle(connection: Connection, keys: Keys, settlement: Settlement, *, owner: str = OWNER) -> int:
    return await answer_of(
        lambda on_reply: call_settle(connection, keys, settlement, owner=owner, on_reply=on_reply)
    )


class Move(NamedTuple):
    """One move of a batch, with everything it may have."""

    key: bytes
    target: str | None
    message: bytes = b""
    waiter: str = ""
    event: bytes = b""
    moment: int | None = None
    later: str = ""


def moves(*these: Move) -> RouteBatch:
    batch = RouteBatch()
    for one in these:
        batch.add(one.key, one.target or "", b"" if one.later else one.message)
        if one.waiter:
            batch.wait(one.waiter)
        if one.event:
            batch.tell(one.event)
        if one.later:
            assert one.moment is not None
            batch.schedule(one.later, one.moment, one.message)
        elif one.moment is not None:
            batch.expire(one.moment)
    return batch


def dump(raw: redis.Redis) -> dict[bytes, object]:
    """Return everything that is in Redis, to compare before and after."""
    found: dict[bytes, object] = {}
    for key in keys_of(raw, "*"):
        match raw.type(key):
            case b"stream":
                found[key] = raw.xrange(key)
            case b"zset":
                found[key] = raw.zrange(key, 0, -1, withscores=True)
            case b"set":
                found[key] = raw.smembers(key)
            case b"hash":
                found[key] = raw.hgetall(key)
            case _:
                found[key] = raw.get(key)
    return found


class Proxy:
    """A TCP proxy in front of Redis. `hold_replies` keeps back what the server says until `let_go`;
    `cut` drops every connection."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._open = asyncio.Event()
        self._open.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.accepted = 0
        self.asked = bytearray()
        self.url = ""

    def hold_replies(self) -> None:
        self._open.clear()

    def let_go(self) -> None:
        self._open.set()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        up_reader, up_writer = await asyncio.open_connection(self._host, self._port)
        self._writers |= {writer, up_writer}
        back = asyncio.get_running_loop().create_task(self._back(up_reader, writer))
        task = asyncio.current_task()
        assert task is not None
        self._tasks |= {back, task}
        try:
            with suppress(OSError):
                while data := await reader.read(65_536):
                    self.asked += data
                    up_writer.write(data)
        except asyncio.CancelledError:
            pass
        finally:
            back.cancel()
            with suppress(asyncio.CancelledError, OSError):
                await back
            for one in (writer, up_writer):
                one.transport.abort()
            self._writers -= {writer, up_writer}
            self._tasks -= {back, task}

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                await self._open.wait()
                writer.write(data)
            writer.close()


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[Proxy]:
    """Put a proxy in front of a Redis: of one server; nodes of a cluster are spoken to directly."""
    if is_cluster(url):
        pytest.skip("a proxy stands in front of one server")
    parts = urlsplit(url)
    proxy = Proxy(parts.hostname or "127.0.0.1", parts.port or 6379)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    login = parts.netloc.rpartition("@")
    proxy.url = urlunsplit(parts._replace(netloc=f"{login[0]}{login[1]}127.0.0.1:{port}"))
    try:
        yield proxy
    finally:
        server.close()
        tasks = tuple(proxy._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=5)
        await server.wait_closed()


async def until(true: Callable[[], bool], *, timeout_s: float = 10) -> None:
    """Wait until something is true that gives no signal of its own."""
    async with asyncio.timeout(timeout_s):
        while not true():  # noqa: ASYNC110  # nothing to wait on: it happens in Redis
            await asyncio.sleep(0.005)


def members(pairs: Sequence[tuple[bytes, float]]) -> dict[str, float]:
    return {member.decode(): score for member, score in pairs}
