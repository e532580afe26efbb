"""Agents that leave: what waits goes back once, a drain waits, nothing is forgotten."""

import asyncio
import json
import time
from base64 import b64decode
from collections.abc import AsyncIterator
from typing import Any

import pytest
from keeper_rig import StartKeeper, add_agents, agent_ids, until
from redis.asyncio import Redis

from broker.store import agents as stored_agents
from broker.store import departures as stored_departures
from broker.store import keys as stored_keys
from broker.store.keys import StoredKey
from broker.store.pool import Pool
from broker.streams.connection import Connection, open_connection
from broker.streams.keys import REGISTRY, REVOKED, Keys
from schema.codec import decode_events, encode
from schema.ids import new_id, shard_of
from schema.ledger import Event, EventKind
from schema.message import LANES, Envelope, Lane, Status
from workers.keeping import departures
from workers.keeping.departures import AGAIN_MS, Departures

SHARDS = 2
WATCH_MS = 60_000
START_MS = 1_800_000_000_000


class Clock:
    def __init__(self) -> None:
        self.ms = START_MS

    def __call__(self) -> int:
        return self.ms


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def leaving(pool: Pool, clock: Clock) -> Departures:
    return Departures(pool, shards=SHARDS, now_ms=clock, watch_ms=WATCH_MS)


@pytest.fixture
async def agent_id(pool: Pool) -> str:
    """An agent of the second shard: who looks after those that leave owns another."""
    [one] = agent_ids(1, shard=1, shards=SHARDS)
    await add_agents(pool, [one])
    return one


def keys_of(agent_id: str) -> Keys:
    return Keys(shard_of(agent_id, SHARDS))


async def waits(connection: Connection, agent_id: str, *, lane: Lane = Lane.NORMAL, **more: Any) -> str:
    """Put a message into the agent's mailbox as the router does; return its id."""
    priority = {Lane.HIGH: 1, Lane.NORMAL: 5, Lane.LOW: 9}[lane]
    message = Envelope(id=new_id(), to_agent_id=agent_id, priority=priority, **more)
    keys = keys_of(agent_id)
    mailbox = keys.mailbox(agent_id, lane)
    entry = (await connection.send("XADD", mailbox, "*", "m", encode(message), "w", "gateway")).decode()
    await connection.send("ZADD", keys.expiry, 1, f"{mailbox}|{entry}")
    await connection.send("ZADD", keys.active, 1, mailbox)
    return message.id


async def events(connection: Connection, agent_id: str) -> list[Event]:
    entries = await connection.send("XRANGE", keys_of(agent_id).ledger, "-", "+")
    return [event for _, fields in entries for event in decode_events(fields[1])]


async def delete(pool: Pool, agent_id: str, now_ms: int = START_MS) -> None:
    assert await stored_departures.delete(pool, agent_id, now_ms=now_ms, look_ms=now_ms) is not None


async def look_at(pool: Pool, agent_id: str) -> Any:
    return await pool.fetch_row(
        "SELECT deleted_at, drains_until, departure_look_at, status FROM agents WHERE id = $1", agent_id
    )


async def test_everything_that_waits_goes_back_and_leaves_nothing_behind(
    any_connection: Connection, pool: Pool, agent_id: str, leaving: Departures
) -> None:
    sender, connection = new_id(), any_connection
    sent = {
        lane: [await waits(connection, agent_id, lane=lane, from_agent_id=sender) for _ in range(100)]
        for lane in LANES
    }
    await connection.send("ZADD", keys_of(agent_id).presence, START_MS, agent_id)
    await delete(pool, agent_id)
    assert await leaving.look(connection) == 1
    ids = [one for several in sent.values() for one in several]
    ended = await events(connection, agent_id)
    assert [event.id for event in ended] == ids
    assert {(e.kind, e.status, e.reason, e.to, e.waiter) for e in ended} == {
        (EventKind.SETTLED, Status.FAILED, "recipient_deleted", agent_id, "gateway")
    }
    keys = keys_of(agent_id)
    for key in (keys.expiry, keys.active, keys.presence, *(keys.mailbox(agent_id, lane) for lane in LANES)):
        assert await connection.send("EXISTS", key) == 0


async def test_the_round_of_a_message_is_told(
    connection: Connection, pool: Pool, agent_id: str, leaving: Departures
) -> None:
    first, replayed = await waits(connection, agent_id), await waits(connection, agent_id, round=2)
    await delete(pool, agent_id)
    await leaving.look(connection)
    assert [(e.id, e.status, e.round) for e in await events(connection, agent_id)] == [
        (first, Status.FAILED, 0),
        (replayed, Status.FAILED, 2),
    ]


async def test_what_is_no_message_is_set_aside(
    connection: Connection, pool: Pool, agent_id: str, leaving: Departures
) -> None:
    mailbox = keys_of(agent_id).mailbox(agent_id, Lane.HIGH)
    await connection.send("XADD", mailbox, "*", "m", "junk")
    await connection.send("XADD", mailbox, "*", "other", "field")
    await delete(pool, agent_id)
    await leaving.look(connection)
    junk, empty = await events(connection, agent_id)
    assert (junk.kind, junk.stream, b64decode(junk.raw or "")) == (EventKind.QUARANTINED, mailbox, b"junk")
    assert (empty.kind, empty.raw) == (EventKind.QUARANTINED, "")
    assert await connection.send("EXISTS", mailbox) == 0


async def test_two_keepers_at_once_end_each_message_once(
    connection: Connection, streams_url: str, pool: Pool, agent_id: str, leaving: Departures
) -> None:
    ids = [await waits(connection, agent_id, from_agent_id=new_id()) for _ in range(300)]
    await delete(pool, agent_id)
    async with await open_connection(streams_url, name="other") as other:
        await asyncio.gather(leaving.look(connection), leaving.look(other))
    assert sorted(event.id for event in await events(connection, agent_id)) == sorted(ids)


async def test_what_a_router_puts_there_later_goes_back_too_until_the_watch_ends(
    connection: Connection, pool: Pool, agent_id: str, leaving: Departures, clock: Clock
) -> None:
    await delete(pool, agent_id)
    looks, announced = 0, 0
    while (row := await look_at(pool, agent_id))["departure_look_at"] is not None:
        clock.ms = max(clock.ms, int(row["departure_look_at"].timestamp() * 1000))
        assert clock.ms <= START_MS + WATCH_MS
        late = await waits(connection, agent_id)
        assert await leaving.look(connection) == 1
        assert (await events(connection, agent_id))[-1].id == late
        looks += 1
        assert await connection.send("XLEN", REGISTRY) > announced
        announced = await connection.send("XLEN", REGISTRY)
    assert clock.ms == START_MS + WATCH_MS
    assert 5 <= looks <= 10
    clock.ms += 10 * WATCH_MS
    assert await leaving.look(connection) == 0


@pytest.fixture
async def heard(streams_url: str) -> AsyncIterator[Any]:
    """What is said of keys."""
    async with Redis.from_url(streams_url) as redis, redis.pubsub() as pubsub:
        await pubsub.subscribe(REVOKED)
        assert (await pubsub.get_message(timeout=5))["type"] == "subscribe"
        yield pubsub


async def test_a_drain_waits_until_nothing_is_left_and_then_the_agent_is_deleted(
    connection: Connection, pool: Pool, agent_id: str, leaving: Departures, clock: Clock, heard: Any
) -> None:
    key = StoredKey(id="k", agent_id=agent_id, scopes=(), hash=b"", prefix="", created_ms=1)
    await stored_keys.insert(pool, key)
    await waits(connection, agent_id, lane=Lane.LOW)
    await stored_departures.drain(
        pool, agent_id, until_ms=START_MS + 60_000, now_ms=START_MS, look_ms=START_MS
    )
    assert await leaving.look(connection) == 1
    row = await look_at(pool, agent_id)
    assert (row["deleted_at"], row["status"]) == (None, "disabled")
    assert int(row["departure_look_at"].timestamp() * 1000) == START_MS + AGAIN_MS
    assert await leaving.look(connection) == 0
    await connection.send("DEL", keys_of(agent_id).mailbox(agent_id, Lane.LOW))
    clock.ms += AGAIN_MS
    assert await leaving.look(connection) == 1
    row = await look_at(pool, agent_id)
    assert (row["deleted_at"] is not None, row["drains_until"]) == (True, None)
    assert await stored_agents.get(pool, agent_id) is None
    revoked = await pool.fetch("SELECT id FROM agent_keys WHERE revoked_at IS NOT NULL ORDER BY id")
    message = await heard.get_message(timeout=5)
    assert sorted(json.loads(message["data"])) == [row["id"] for row in revoked]
    assert len(revoked) == 2
    assert await events(connection, agent_id) == []


async def test_a_drain_that_takes_too_long_returns_the_rest(
    connection: Connection, pool: Pool, agent_id: str, leaving: Departures, clock: Clock
) -> None:
    left = await waits(connection, agent_id)
    await stored_departures.drain(pool, agent_id, until_ms=START_MS + 5, now_ms=START_MS, look_ms=START_MS)
    clock.ms += 5
    assert await leaving.look(connection) == 1
    assert await events(connection, agent_id) == []  # every worker hears first
    clock.ms += departures.GRACE_MS
    assert await leaving.look(connection) == 1
    assert [(event.id, event.reason) for event in await events(connection, agent_id)] == [
        (left, "recipient_deleted")
    ]


async def test_an_agent_that_was_called_back_stays(
    connection: Connection, pool: Pool, agent_id: str, leaving: Departures
) -> None:
    await stored_departures.drain(pool, agent_id, until_ms=START_MS, now_ms=START_MS, look_ms=START_MS)
    await pool.execute("UPDATE agents SET status = 'active', drains_until = NULL WHERE id = $1", agent_id)
    assert await leaving.look(connection) == 1
    row = await look_at(pool, agent_id)
    assert (row["deleted_at"], row["departure_look_at"]) == (None, None)


async def test_more_than_one_look_holds_are_all_looked_at(
    connection: Connection, pool: Pool, leaving: Departures, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(departures, "AT_ONCE_MAX", 2)
    ids = agent_ids(5)
    await add_agents(pool, ids)
    for one in ids:
        await waits(connection, one)
        await delete(pool, one)
    assert [await leaving.look(connection) for _ in range(4)] == [2, 2, 1, 0]
    ended = [event.to for shard in range(SHARDS) for event in await events_of_shard(connection, shard)]
    assert sorted(str(one) for one in ended) == sorted(ids)


async def events_of_shard(connection: Connection, shard: int) -> list[Event]:
    entries = await connection.send("XRANGE", Keys(shard).ledger, "-", "+")
    return [event for _, fields in entries for event in decode_events(fields[1])]


async def test_redis_at_its_memory_limit_still_lets_messages_go_back(
    connection: Connection, pool: Pool, agent_id: str, leaving: Departures
) -> None:
    sent = await waits(connection, agent_id, from_agent_id=new_id())
    await delete(pool, agent_id)
    _, before = await connection.send("CONFIG", "GET", "maxmemory")
    await connection.send("CONFIG", "SET", "maxmemory", "1")
    try:
        async with asyncio.timeout(20), asyncio.TaskGroup() as group:
            running = group.create_task(leaving.run(connection))
            while not await events(connection, agent_id):  # noqa: ASYNC110 (what happens in Redis gives no sign)
                await asyncio.sleep(0.02)
            running.cancel()
    finally:
        await connection.send("CONFIG", "SET", "maxmemory", before)
    assert [event.id for event in await events(connection, agent_id)] == [sent]


async def test_a_keeper_does_it(
    connection: Connection,
    streams_url: str,
    database_url: str,
    pool: Pool,
    agent_id: str,
    start_keeper: StartKeeper,
) -> None:
    sent = await waits(connection, agent_id, from_agent_id=new_id())
    await delete(pool, agent_id, time.time_ns() // 1_000_000)
    keeper = start_keeper(streams_url, database_url, shards=SHARDS)

    async def returned() -> bool:
        return [event.id for event in await events(connection, agent_id)] == [sent]

    await until(returned, "the end of what waited")
    assert (await keeper.logged("agent.returned"))["messages"] == 1
    await keeper.stop()
