"""Live sessions under test: mailboxes filled as the router fills them, streams and sockets that are read."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any

import httpx
import redis
from cluster import client_of, close
from gateway_rig import OPERATOR_KEY
from msgspec import Raw
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from broker.gateway.serve import Running
from broker.streams.keys import ARRIVED, Keys
from schema.codec import decode_events, encode
from schema.ids import new_id, shard_of
from schema.ledger import Event
from schema.message import LANES, Envelope, Lane, lane_of

PATH = "/api/v1/messaging/stream"
WAIT_S = 15
Json = dict[str, Any]


class Mailman:
    """Puts messages into mailboxes, and looks at what became of them."""

    def __init__(self, raw: redis.Redis, shards: int) -> None:
        self.raw = raw
        self._shards = shards

    def keys(self, agent_id: str) -> Keys:
        return Keys(shard_of(agent_id, self._shards))

    def put(
        self,
        agent_id: str,
        *,
        priority: int = 5,
        content: bytes = b'{"n":1}',
        word: bool = True,
        waiter: str | None = None,
        **more: Any,
    ) -> Envelope:
        envelope = Envelope(
            id=new_id(),
            to_agent_id=agent_id,
            priority=priority,
            content=Raw(content),
            created_at=datetime.now(UTC),
            **more,
        )
        fields = {"m": encode(envelope)} | ({} if waiter is None else {"w": waiter})
        self.raw.xadd(self.keys(agent_id).mailbox(agent_id, lane_of(priority)), fields)
        if word:
            self.raw.publish(ARRIVED, encode([agent_id]))
        return envelope

    def entry_of(self, envelope: Envelope) -> str:
        """Return the mailbox entry of a message."""
        assert envelope.to_agent_id is not None
        box = self.keys(envelope.to_agent_id).mailbox(envelope.to_agent_id, lane_of(envelope.priority))
        return next(
            entry.decode() for entry, fields in self.raw.xrange(box) if envelope.id.encode() in fields[b"m"]
        )

    def left(self, agent_id: str) -> int:
        """Return how many messages lie in the agent's mailboxes."""
        return sum(self.raw.xlen(self.keys(agent_id).mailbox(agent_id, lane)) for lane in LANES)

    def events(self, agent_id: str) -> list[Event]:
        ledger = self.raw.xrange(self.keys(agent_id).ledger)
        return [event for _, fields in ledger for event in decode_events(fields[b"b"])]


@contextmanager
def mailing(url: str, shards: int) -> Iterator[Mailman]:
    raw = client_of(url)
    try:
        yield Mailman(raw, shards)
    finally:
        close(raw)


class EventSource:
    """Reads an event stream as a browser does."""

    def __init__(self, reply: httpx.Response) -> None:
        self.reply = reply
        self.retry: str | None = None
        self._lines = reply.aiter_lines()

    async def next(self) -> tuple[str, str | None, Json]:
        """Return name, id and data of the next event; raises StopAsyncIteration at the end."""
        async with asyncio.timeout(WAIT_S):
            fields: dict[str, str] = {}
            async for line in self._lines:
                if line:
                    name, _, value = line.partition(": ")
                    fields[name] = value
                    if name == "retry":
                        self.retry = value
                elif "data" in fields:
                    return fields.get("event", "message"), fields.get("id"), json.loads(fields["data"])
                else:
                    fields.clear()
        raise StopAsyncIteration

    async def messages(self, count: int) -> list[Json]:
        found: list[Json] = []
        while len(found) < count:
            name, event_id, data = await self.next()
            if name == "message":
                found.append(data | {"event_id": event_id})
        return found


@asynccontextmanager
async def listening(
    gateway: Running, key: str = OPERATOR_KEY, *, headers: dict[str, str] | None = None, **query: Any
) -> AsyncIterator[EventSource]:
    asked = {"Authorization": f"Bearer {key}", **(headers or {})}
    async with (
        httpx.AsyncClient(base_url=gateway.url, trust_env=False, timeout=WAIT_S) as http,
        http.stream("GET", PATH, params=query, headers=asked) as reply,
    ):
        if reply.status_code != 200:
            await reply.aread()
        yield EventSource(reply)


class Socket:
    """A WebSocket whose frames are read as JSON."""

    def __init__(self, connection: ClientConnection) -> None:
        self.connection = connection

    async def next(self) -> Json:
        async with asyncio.timeout(WAIT_S):
            frame: Json = json.loads(await self.connection.recv())
        return frame

    async def until(self, kind: str) -> Json:
        """Return the next frame of this type, passing over others."""
        while (frame := await self.next())["type"] != kind:
            pass
        return frame

    async def messages(self, count: int) -> list[Json]:
        return [(await self.until("message"))["message"] for _ in range(count)]

    async def ask(self, **frame: Any) -> Json:
        """Send a frame and return its answer."""
        await self.connection.send(json.dumps(frame))
        while (answer := await self.next())["type"] in ("message", "presence", "hello"):
            pass
        return answer

    async def ack(self, message_id: str, **more: Any) -> Json:
        return await self.ask(type="ack", message_id=message_id, **more)

    async def closed(self) -> int:
        """Wait for the end of the connection and return its close code."""
        async with asyncio.timeout(WAIT_S):
            try:
                while True:
                    await self.connection.recv()
            except ConnectionClosed:
                return self.connection.close_code or 0


@asynccontextmanager
async def talking(
    gateway: Running,
    key: str | None = OPERATOR_KEY,
    *,
    subprotocols: list[str] | None = None,
    headers: dict[str, str] | None = None,
    path: str = PATH,
    **query: Any,
) -> AsyncIterator[Socket]:
    url = str(httpx.URL(gateway.url.replace("http:", "ws:") + path, params=query))
    asked = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with connect(
        url,
        additional_headers=asked | (headers or {}),
        subprotocols=subprotocols,  # type: ignore[arg-type]  # a NewType of str
        proxy=None,
        open_timeout=WAIT_S,
        close_timeout=2,
        ping_interval=None,
    ) as connection:
        yield Socket(connection)


async def until(true: Callable[[], bool], *, timeout_s: float = WAIT_S) -> None:
    """Wait until something is true that happens elsewhere and gives no signal of its own."""
    async with asyncio.timeout(timeout_s):
        while not true():  # noqa: ASYNC110  # nothing to wait on
            await asyncio.sleep(0.005)


__all__ = ["Lane", "Mailman", "Socket", "listening", "mailing", "talking", "until"]
