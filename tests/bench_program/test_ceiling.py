"""Publisher, ceiling and sink together on real servers: what is published arrives and is committed, once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack

import asyncpg
import pytest
from redis.asyncio import Redis

from broker.bench.ceiling import STREAM, CeilingOrder, CeilingReport
from broker.bench.control import Child, Nothing
from broker.bench.load import LoadOrder, LoadReport
from broker.bench.payload import Fleet
from broker.bench.sink import Ports, SinkOrder, SinkReport
from broker.streams.keys import DEPLOYMENT
from schema.ids import new_id


class Trio:
    """The three children and the servers' addresses."""

    def __init__(self, sink: Child, load: Child, ceiling: Child, redis: "Redis", database_url: str) -> None:
        self.sink, self.load, self.ceiling = sink, load, ceiling
        self.redis = redis
        self.database_url = database_url

    async def run(self, count: int, *, rate: int = 0) -> tuple[LoadReport, CeilingReport, SinkReport]:
        await self.sink.ask(SinkOrder(do="reset"), Nothing)
        run = asyncio.ensure_future(self.ceiling.ask(CeilingOrder(do="run", count=count), CeilingReport))
        order = LoadOrder(do="publish", count=count, rate=rate, way="bare")
        load = await self.load.ask(order, LoadReport)
        done = await run
        return load, done, await self.sink.ask(SinkOrder(do="report"), SinkReport)


@pytest.fixture
async def trio(streams_url: str, postgres_url: str) -> AsyncIterator[Trio]:
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(Redis.from_url(streams_url))
        await redis.hset(DEPLOYMENT, "shards", "2")
        children = []
        for name in ("sink", "load", "ceiling"):
            child = await Child.start(f"broker.bench.{name}")
            stack.push_async_callback(child.stop)
            children.append(child)
        sink, load, ceiling = children
        ports = (await sink.ask(SinkOrder(do="listen", ports=3), Ports)).ports
        fleet = Fleet(agents=[new_id() for _ in range(4)], skills=[["bench", "a"]])
        await load.ask(LoadOrder(do="open", redis_url=streams_url, fleet=fleet), Nothing)
        order = CeilingOrder(do="open", redis_url=streams_url, database_url=postgres_url, ports=ports)
        await ceiling.ask(order, Nothing)
        yield Trio(sink, load, ceiling, redis, postgres_url)
        await load.ask(LoadOrder(do="close"), Nothing)


async def rows(url: str) -> tuple[int, int]:
    connection = await asyncpg.connect(url)
    try:
        messages = await connection.fetchval("SELECT count(DISTINCT id) FROM bench_ceiling.messages")
        attempts = await connection.fetchval("SELECT count(*) FROM bench_ceiling.attempts")
    finally:
        await connection.close()
    return messages, attempts


async def test_ceiling_moves_every_message_once_and_leaves_nothing_behind(trio: Trio) -> None:
    load, done, sink = await trio.run(1_000)
    assert (sink.requests, sink.distinct, sink.duplicates) == (1_000, 1_000, 0)
    assert await rows(trio.database_url) == (1_000, 1_000)
    assert load.first_ns < sink.first_ns < done.committed_ns
    assert load.low_id < load.high_id
    await trio.ceiling.ask(CeilingOrder(do="close"), Nothing)
    assert await trio.redis.exists(STREAM) == 0
    connection = await asyncpg.connect(trio.database_url)
    assert await connection.fetchval("SELECT to_regnamespace('bench_ceiling')") is None
    await connection.close()


async def test_paced_run_lasts_as_long_as_its_schedule(trio: Trio) -> None:
    load, _, sink = await trio.run(300, rate=1_000)
    assert sink.requests == sink.latencies.count == 300
    # The last is due 299 ms after the first; nothing arrives before it was meant to be sent.
    assert sink.last_ns - load.first_ns >= 299_000_000
    assert load.late_ms_max >= 0
    await trio.ceiling.ask(CeilingOrder(do="close"), Nothing)
