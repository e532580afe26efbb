"""Recorders as processes: told to stop, killed, and taken over from, with the ledger growing meanwhile."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from cluster import async_client_of
from ledger_events import envelope, settled
from redis.asyncio import Redis

from broker.store.pool import Pool
from broker.streams.keys import Keys
from schema.codec import encode

SHARDS = 2
LEASE_MS = 1_000
WAIT_S = 80
"""On a machine that has others to run a process may take half a minute to begin its work."""

Start = Callable[[], Awaitable[asyncio.subprocess.Process]]


@pytest.fixture
async def redis(streams_url: str) -> AsyncIterator[Redis]:
    client = async_client_of(streams_url)
    yield client
    await client.aclose()


@pytest.fixture
async def start(streams_url: str, database_url: str) -> AsyncIterator[Start]:
    """Start recorders; whatever is left of them at the end is killed."""
    started: list[asyncio.subprocess.Process] = []
    given = {
        "REDIS_URL": streams_url,
        "DATABASE_URL": database_url,
        "LEASE_MS": str(LEASE_MS),
        "METRICS_PORT": "0",
        "SHARDS": str(SHARDS),
    }

    async def start_one() -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "broker.cli", "recorder"), env=dict(os.environ) | given
        )
        started.append(process)
        return process

    yield start_one
    for process in started:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def happen(redis: Redis, count: int) -> list[str]:
    """Let messages be delivered, over both shards."""
    made = [envelope() for _ in range(count)]
    for number, message in enumerate(made):
        await redis.xadd(Keys(number % SHARDS).ledger, {"b": encode([settled(message)])})
    return [message.id for message in made]


async def recorded(redis: Redis, pool: Pool, ids: list[str]) -> None:
    """Return when the ledgers are empty, and see that everything is there once."""
    async with asyncio.timeout(WAIT_S):
        while sum([await redis.xlen(Keys(shard).ledger) for shard in range(SHARDS)]):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    for table, column in (("agent_messages", "id"), ("message_delivery_log", "message_id")):
        rows = await pool.fetch(f"SELECT {column}::text FROM {table}")
        assert sorted(row[0] for row in rows) == sorted(ids)


async def test_a_recorder_told_to_stop_hands_its_shards_over_at_once(
    redis: Redis, pool: Pool, start: Start
) -> None:
    first = await start()
    ids = await happen(redis, 200)
    await recorded(redis, pool, ids)
    first.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(first.wait(), WAIT_S) == 0
    for shard in range(SHARDS):
        assert await redis.get(Keys(shard).owner("record")) is None
    ids += await happen(redis, 50)
    await start()
    await recorded(redis, pool, ids)


async def test_what_a_killed_recorder_left_is_recorded_once_by_the_next(
    redis: Redis, pool: Pool, start: Start
) -> None:
    first = await start()
    ids = await happen(redis, 20)
    await recorded(redis, pool, ids)
    pouring = asyncio.ensure_future(happen(redis, 1_000))
    async with asyncio.timeout(WAIT_S):
        while await pool.fetch_value("SELECT count(*) FROM agent_messages") < 100:  # noqa: ASYNC110
            await asyncio.sleep(0.005)
    first.kill()
    await start()
    await recorded(redis, pool, ids + await pouring)
