"""Building blocks for tests of the streams: envelopes, awaited callbacks."""

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple

import redis
from cluster import keys_of

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


async def until(true: Callable[[], bool], *, timeout_s: float = 10) -> None:
    """Wait until something is true that gives no signal of its own."""
    async with asyncio.timeout(timeout_s):
        while not true():  # noqa: ASYNC110  # nothing to wait on: it happens in Redis
            await asyncio.sleep(0.005)


def members(pairs: Sequence[tuple[bytes, float]]) -> dict[str, float]:
    return {member.decode(): score for member, score in pairs}
