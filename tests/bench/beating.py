"""Heartbeats at a steady rate, by the ways they arrive: over HTTP, each agent with its own key or a thousand
in one request; natively, a command of each agent or one for a thousand; or the renewals of gateways, for
agents that hold a live connection. And the floors: empty answers of the gateway, bare commands of Redis.

A driver, not a part of the broker: its CPU is not counted. Nothing waits for an answer but its connection, so
a broker that is slower than the rate shows in how late the last answer came.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from time import monotonic
from typing import Final, NamedTuple, cast
from urllib.parse import urlsplit

from broker.streams.link import Link
from broker.streams.presence import Presence
from broker.streams.sessions import Sessions
from schema.codec import encode
from schema.limits import HEARTBEATS_MAX

CONNECTIONS: Final = 64
TICK_S: Final = 0.005
PER_GATEWAY: Final = 10_000
"""Live connections of one gateway, which renews the leases of all of them together."""
RENEWAL_S: Final = 20.0
"""How often a gateway does."""

FLOOR: Final = "bench:floor"

Send = Callable[[int, int], Awaitable[object]]
"""Sends the heartbeat of agent number n by connection c."""


async def paced(send: Send, count: int, *, seconds: float) -> float:
    """Send `count` heartbeats evenly over so many seconds; return how late the last was answered, in s."""
    began, given = monotonic(), 0
    waiting: deque[int] = deque()
    more = asyncio.Semaphore(0)

    async def serve(connection: int) -> None:
        while True:
            await more.acquire()
            number = waiting.popleft()
            if number < 0:
                return
            await send(number, connection)

    async with asyncio.TaskGroup() as group:
        for connection in range(CONNECTIONS):
            group.create_task(serve(connection))
        while given < count:
            due = min(count, int((monotonic() - began) / seconds * count) + 1)
            for number in range(given, due):
                waiting.append(number)
                more.release()
            given = due
            await asyncio.sleep(TICK_S)
        for _ in range(CONNECTIONS):
            waiting.append(-1)
            more.release()
    return max(0.0, monotonic() - began - seconds)


class Beaten(NamedTuple):
    """How late the last heartbeat was answered, and how many were refused."""

    late_s: float
    refused: int


class Beater(asyncio.Protocol):
    """One keep-alive connection; one request at a time."""

    def __init__(self) -> None:
        self._rest = b""
        self._done: asyncio.Future[bytes] | None = None
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # a stream connection can be written

    async def ask(self, request: bytes) -> bytes:
        """Return the status line of the answer."""
        assert self._transport is not None
        self._done = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._done

    def data_received(self, data: bytes) -> None:
        self._rest += data
        head, found, body = self._rest.partition(b"\r\n\r\n")
        length = head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
        if not found or len(body) < int(length or 0) or self._done is None:
            return
        self._rest, done, self._done = b"", self._done, None
        if not done.done():
            done.set_result(head.partition(b"\r\n")[0])

    def connection_lost(self, exc: Exception | None) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_exception(exc or ConnectionError("the gateway closed the connection"))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()


async def over_http(url: str, keys: Sequence[str], *, seconds: float) -> Beaten:
    """Let agents send one heartbeat each with their own keys."""
    head = "POST /api/v1/messaging/heartbeat HTTP/1.1\r\nHost: broker\r\nContent-Length: 0\r\n"
    requests = [f"{head}Authorization: Bearer {key}\r\n\r\n".encode() for key in keys]
    return await _ask(url, requests, wanted=b"HTTP/1.1 200 OK", seconds=seconds)


async def nothing_over_http(url: str, keys: Sequence[str], *, seconds: float) -> Beaten:
    """Ask as often, by requests of the same size, for an empty answer that takes no key and no store."""
    head = "OPTIONS /api/v1/messaging/heartbeat HTTP/1.1\r\nHost: broker\r\nContent-Length: 0\r\n"
    requests = [f"{head}X-Nothing: Bearer {key}\r\n\r\n".encode() for key in keys]
    return await _ask(url, requests, wanted=b"HTTP/1.1 204 No Content", seconds=seconds)


async def _ask(url: str, requests: Sequence[bytes], *, wanted: bytes, seconds: float) -> Beaten:
    parts, loop = urlsplit(url), asyncio.get_running_loop()
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    beaters = [(await loop.create_connection(Beater, host, port))[1] for _ in range(CONNECTIONS)]
    refused = 0

    async def send(number: int, connection: int) -> None:
        nonlocal refused
        refused += await beaters[connection].ask(requests[number]) != wanted

    try:
        return Beaten(await paced(send, len(requests), seconds=seconds), refused)
    finally:
        for beater in beaters:
            beater.close()


async def together_over_http(url: str, key: str, agents: Sequence[str], *, seconds: float) -> Beaten:
    """Let somebody who runs them all say that they are there, a thousand agents a request."""
    parts = [agents[start : start + HEARTBEATS_MAX] for start in range(0, len(agents), HEARTBEATS_MAX)]
    address, loop = urlsplit(url), asyncio.get_running_loop()
    host, port = address.hostname or "127.0.0.1", address.port or 80
    beater = (await loop.create_connection(Beater, host, port))[1]
    turn, refused = asyncio.Lock(), 0

    async def send(number: int, _: int) -> None:
        nonlocal refused
        body = encode({"agent_ids": parts[number]})
        head = (
            f"POST /api/v1/messaging/heartbeats HTTP/1.1\r\nHost: {host}\r\nContent-Length: {len(body)}\r\n"
            f"Content-Type: application/json\r\nAuthorization: Bearer {key}\r\n\r\n"
        )
        async with turn:
            refused += await beater.ask(head.encode() + body) != b"HTTP/1.1 200 OK"

    try:
        return Beaten(await paced(send, len(parts), seconds=seconds), refused)
    finally:
        beater.close()


async def natively(redis_url: str, agents: Sequence[str], *, shards: int, seconds: float) -> Beaten:
    """Let agents send one heartbeat each as a native client does."""
    links = [Link(redis_url, name="beat") for _ in range(CONNECTIONS)]
    presences = [Presence(link, shards=shards) for link in links]

    async def send(number: int, connection: int) -> None:
        await presences[connection].heartbeat(agents[number])

    try:
        return Beaten(await paced(send, len(agents), seconds=seconds), 0)
    finally:
        for link in links:
            await link.close()


async def together_natively(redis_url: str, agents: Sequence[str], *, shards: int, seconds: float) -> Beaten:
    """Let processes that run a thousand agents each send the heartbeats of all of theirs together."""
    parts = [agents[start : start + HEARTBEATS_MAX] for start in range(0, len(agents), HEARTBEATS_MAX)]
    link = Link(redis_url, name="beat")
    presence = Presence(link, shards=shards)

    async def send(number: int, _: int) -> None:
        await presence.note(dict.fromkeys(parts[number], await presence.now_ms()))

    try:
        return Beaten(await paced(send, len(parts), seconds=seconds), 0)
    finally:
        await link.close()


async def nothing_natively(redis_url: str, agents: Sequence[str], *, seconds: float) -> Beaten:
    """Send as many commands as `natively`, each a member of a sorted set that nobody reads."""
    links = [Link(redis_url, name="beat") for _ in range(CONNECTIONS)]

    async def send(number: int, connection: int) -> None:
        await (await links[connection].get()).send("ZADD", FLOOR, "GT", number, agents[number])

    try:
        late_s = await paced(send, len(agents), seconds=seconds)
        await (await links[0].get()).send("UNLINK", FLOOR)
        return Beaten(late_s, 0)
    finally:
        for link in links:
            await link.close()


async def connect(redis_url: str, agents: Sequence[str], *, shards: int) -> None:
    """Take the leases of the agents that `by_renewal` renews: a first one is dearer than a renewal."""
    link = Link(redis_url, name="renew")
    try:
        await Sessions(link, shards=shards).renew({agent: f"session-{agent}" for agent in agents})
    finally:
        await link.close()


async def by_renewal(redis_url: str, agents: Sequence[str], *, shards: int, seconds: float) -> Beaten:
    """Renew the leases of agents that are all connected, as often as gateways do.

    What the gateways themselves spend on it is not seen here: one command for a thousand sessions.
    """
    link = Link(redis_url, name="renew")
    sessions = Sessions(link, shards=shards)
    parts = [agents[start : start + PER_GATEWAY] for start in range(0, len(agents), PER_GATEWAY)]
    turns = max(1, round(len(parts) * seconds / RENEWAL_S))

    async def send(number: int, _: int) -> None:
        await sessions.renew({agent: f"session-{agent}" for agent in parts[number % len(parts)]})

    try:
        return Beaten(await paced(send, turns, seconds=seconds), 0)
    finally:
        await link.close()
