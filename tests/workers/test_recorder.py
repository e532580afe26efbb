"""The recorder between a real Redis and a real Postgres: nothing is cut before it is committed."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cluster import async_client_of
from ledger_events import AGENTS, envelope, now_ms, settled
from msgspec import Raw
from msgspec.json import decode
from redis.asyncio import Redis

from broker.servers.postgres import EmbeddedPostgres
from broker.store import attempts, messages
from broker.store.migrate import migrate
from broker.store.pool import Pool, open_pool
from broker.streams.clock import ServerClock
from broker.streams.keys import RECORDED, Keys
from broker.streams.ledger import LedgerEntry
from broker.streams.notifications import Notices, hear_receipts
from broker.streams.ownership import Lease
from broker.telemetry import metrics
from broker.telemetry.instruments import Count
from schema.codec import encode
from schema.ids import new_id
from schema.ledger import Event, EventKind, Receipt
from schema.limits import RECORD_EVENTS_MAX
from schema.message import Status
from workers.ledger_batch import LINGER_MS_MAX, LINGER_SHARING_MS, Batch, Linger, ReadSize
from workers.recorder import Recorder
from workers.shard_recorder import RecordRules

SHARDS = 2
RULES = RecordRules(retention_days=30, linger_ms=5)
WAIT_S = 20


class Bench:
    """A recorder at work, the ledgers it reads and the database it fills."""

    def __init__(self, redis: Redis, pool: Pool, recorder: Recorder) -> None:
        self.redis = redis
        self.pool = pool
        self.recorder = recorder
        self.leases: dict[int, Lease] = {}

    async def own(self, shard: int = 0, value: str = "1:me") -> Lease:
        """Take a shard, as the tenancy would."""
        await self.redis.set(Keys(shard).owner("record"), value)
        lease = Lease(shard, "record", value, float("inf"))
        self.leases[shard] = lease
        await self.recorder.start(lease)
        return lease

    async def happen(self, *events: Event, shard: int = 0) -> None:
        """Put events into the ledger as one entry."""
        await self.redis.xadd(Keys(shard).ledger, {"b": encode(list(events))})

    async def length(self, shard: int = 0) -> int:
        return await self.redis.xlen(Keys(shard).ledger)

    async def is_cut(self, shard: int = 0) -> None:
        """Return when the ledger is empty."""
        async with asyncio.timeout(WAIT_S):
            while await self.length(shard):  # noqa: ASYNC110  # another process's state
                await asyncio.sleep(0.005)

    async def count(self, table: str = "agent_messages") -> int:
        return await self.pool.fetch_value(f"SELECT count(*) FROM {table}")


async def counted(count: Count, value: int) -> None:
    """Return when the counter has reached a value."""
    async with asyncio.timeout(WAIT_S):
        while count.value < value:  # noqa: ASYNC110  # counters tell nobody
            await asyncio.sleep(0.005)


@asynccontextmanager
async def bench_on(streams_url: str, database_url: str, rules: RecordRules = RULES) -> AsyncIterator[Bench]:
    redis = async_client_of(streams_url)
    pool = await open_pool(database_url, application_name="tests")
    recorder = Recorder(streams_url, pool, rules, name="tests", shards=SHARDS, clock=ServerClock())
    bench = Bench(redis, pool, recorder)
    over = asyncio.Event()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(recorder.run(over))
            await asyncio.sleep(0)
            try:
                yield bench
            finally:
                for lease in bench.leases.values():
                    await recorder.stop(lease, gracefully=True)
                over.set()
    finally:
        await pool.aclose()
        await redis.aclose()


@pytest.fixture
async def bench(streams_url: str, database_url: str) -> AsyncIterator[Bench]:
    async with bench_on(streams_url, database_url) as made:
        yield made


async def test_what_happened_is_recorded_and_then_cut(any_streams_url: str, any_database_url: str) -> None:
    async with bench_on(any_streams_url, any_database_url) as bench:
        made = [envelope() for _ in range(300)]
        for start in range(0, 300, 100):
            await bench.happen(*(settled(message) for message in made[start : start + 100]))
        await bench.own()
        await bench.is_cut()
        assert await bench.count() == await bench.count("message_delivery_log") == 300
        view = await messages.get(bench.pool, made[-1].id)
        assert view is not None
        assert view.status == "delivered"


async def test_shards_are_recorded_side_by_side_until_their_lease_is_given_up(bench: Bench) -> None:
    for shard in range(SHARDS):
        await bench.own(shard)
        await bench.happen(settled(envelope()), shard=shard)
        await bench.is_cut(shard)
    assert await bench.count() == SHARDS
    await bench.recorder.stop(bench.leases[0], gracefully=True)
    await bench.happen(settled(envelope()), shard=0)
    await bench.happen(settled(envelope()), shard=1)
    await bench.is_cut(1)
    assert await bench.length(0) == 1
    assert await bench.count() == SHARDS + 1


async def test_who_waits_is_told_once_it_is_committed(bench: Bench, streams_url: str) -> None:
    told: asyncio.Queue[list[Receipt]] = asyncio.Queue()
    notices = Notices(streams_url)
    hear_receipts(notices, gateway_id="g1", on_receipts=told.put_nowait)
    hearing = asyncio.ensure_future(notices.run())
    await asyncio.wait_for(notices.listening.wait(), WAIT_S)
    await bench.own()
    awaited, bad = envelope(), envelope(priority=99_999)
    await bench.happen(settled(awaited, waiter="g1"), settled(bad, waiter="g1"), settled(envelope()))
    batch = await asyncio.wait_for(told.get(), WAIT_S)
    assert [(receipt.id, receipt.rung) for receipt in batch] == [(awaited.id, "recorded")]
    assert await messages.get(bench.pool, awaited.id) is not None
    hearing.cancel()
    await asyncio.wait((hearing,))


async def test_word_goes_out_of_what_still_waits_and_of_what_was_answered(
    bench: Bench, streams_url: str
) -> None:
    words: asyncio.Queue[list[str]] = asyncio.Queue()
    told: asyncio.Queue[list[Receipt]] = asyncio.Queue()
    notices = Notices(streams_url, {RECORDED: lambda word: words.put_nowait(decode(word, type=list[str]))})
    hear_receipts(notices, gateway_id="g1", on_receipts=told.put_nowait)
    hearing = asyncio.ensure_future(notices.run())
    await asyncio.wait_for(notices.listening.wait(), WAIT_S)
    await bench.own()
    question = new_id()
    waits, reply = envelope(), envelope(to_agent_id=AGENTS[1], reply_to=question)
    bad = envelope(priority=99_999, reply_to=new_id())
    routed = {"kind": EventKind.ROUTED, "status": Status.PENDING, "attempt": None}
    await bench.happen(
        *(settled(waits, **routed), settled(envelope(), **routed), settled(reply), settled(bad))
    )
    assert await asyncio.wait_for(words.get(), WAIT_S) == [AGENTS[0]]
    assert await asyncio.wait_for(told.get(), WAIT_S) == [Receipt(question, "replied", reply.id)]
    # What is said is true by then: it is on record.
    assert await messages.get(bench.pool, reply.id) is not None
    hearing.cancel()
    await asyncio.wait((hearing,))


async def test_an_owner_that_lost_its_lease_cuts_nothing_and_its_successor_repeats(bench: Bench) -> None:
    fenced = metrics.FENCED.child(trade="record")
    before = fenced.value
    lease = await bench.own(value="1:me")
    await bench.redis.set(Keys(0).owner("record"), "2:other")
    await bench.happen(settled(envelope()))
    await counted(fenced, before + 1)
    assert await bench.length() == 1
    await bench.recorder.stop(lease, gracefully=False)
    await bench.own(value="3:me")
    await bench.is_cut()
    assert await bench.count() == await bench.count("message_delivery_log") == 1


async def test_poison_is_set_aside_and_the_ledger_moves_on(bench: Bench) -> None:
    await bench.own()
    good = [envelope() for _ in range(10)]
    await bench.happen(*map(settled, good), settled(envelope(content=Raw(b'{"a": "\\u0000"}'))))
    await bench.happen(settled(envelope()))
    await bench.is_cut()
    assert await bench.count() == 11
    assert await bench.count("quarantine") == 1


async def test_postgres_away_loses_nothing_and_cuts_nothing(streams_url: str, tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path)
    await asyncio.to_thread(server.start)
    await migrate(server.url)
    away = metrics.POSTGRES_ERRORS.child(kind="unavailable")
    try:
        async with bench_on(streams_url, server.url) as bench:
            await bench.own()
            await bench.happen(settled(envelope()))
            await bench.is_cut()
            await asyncio.to_thread(server.stop, "immediate")
            before = away.value
            made = [envelope() for _ in range(50)]
            for message in made:
                await bench.happen(settled(message))
            await counted(away, before + 2)
            assert await bench.length() == 50
            await asyncio.to_thread(server.start)
            await bench.is_cut()
            assert await bench.count() == 51
            for message in made:
                assert len(await attempts.of_message(bench.pool, message.id)) == 1
    finally:
        await asyncio.to_thread(server.stop, "immediate")


async def test_stopping_while_postgres_is_away_leaves_the_ledger_as_it_is(streams_url: str) -> None:
    async with bench_on(streams_url, "postgresql://nobody@127.0.0.1:1/none") as bench:
        away = metrics.POSTGRES_ERRORS.child(kind="unavailable")
        before = away.value
        lease = await bench.own()
        await bench.happen(settled(envelope()))
        await counted(away, before + 1)
        async with asyncio.timeout(WAIT_S):
            await bench.recorder.stop(lease, gracefully=True)
        assert await bench.length() == 1


async def test_a_connection_to_redis_that_breaks_is_made_again(bench: Bench) -> None:
    await bench.own()
    await bench.happen(settled(envelope()))
    await bench.is_cut()
    clients = await bench.redis.client_list()
    for client in clients:
        if client["name"].startswith("tests-"):
            await bench.redis.client_kill_filter(_id=client["id"])
    await bench.happen(settled(envelope()))
    await bench.is_cut()
    assert await bench.count() == 2


async def test_statuses_of_a_message_told_twice_end_where_they_were(bench: Bench) -> None:
    await bench.own()
    message = envelope(created_at=datetime.now(UTC))
    at_ms = now_ms()
    routed = settled(message, status=Status.PENDING, attempt=None, at_ms=at_ms)
    for event in (routed, settled(message, at_ms=at_ms + 5), routed):
        await bench.happen(event)
        await bench.is_cut()
    view = await messages.get(bench.pool, message.id)
    assert view is not None
    assert view.status == "delivered"


def entries_of(events: int, size_bytes: int) -> Callable[[int], list]:
    event = settled(envelope())
    return lambda count: [LedgerEntry(f"{n + 1}-0", [event] * events, size_bytes) for n in range(count)]


@pytest.mark.parametrize(
    ("events", "size_bytes", "entries"),
    [(1, 1_000, 256), (128, 100_000, RECORD_EVENTS_MAX // 128 + 1), (2, 4 * 1024 * 1024, 2), (1_000, 10, 1)],
)
def test_reads_adapt_to_the_size_of_entries(events: int, size_bytes: int, entries: int) -> None:
    size, made = ReadSize(), entries_of(events, size_bytes)
    for _ in range(40):
        size.learn(made(4))
    assert abs(size.entries - entries) <= 1


def test_a_batch_is_full_when_it_is_large_and_awaited_when_somebody_waits() -> None:
    batch = Batch()
    assert batch.is_empty
    batch.add(entries_of(1, 10)(1))
    assert (batch.is_empty, batch.is_full, batch.last_id) == (False, False, "1-0")
    batch.add(entries_of(250, 10)(2))
    assert (batch.is_full, batch.is_awaited) == (True, False)
    awaited = Batch()
    entry = entries_of(1, 10)(1)[0]
    entry.events = [settled(envelope(), waiter="g")]
    awaited.add([entry])
    assert (awaited.is_full, awaited.is_awaited) == (False, True)


@pytest.mark.parametrize(
    ("events_per_s", "shortest_ms", "lingers_ms"),
    [(0, 15, 0), (100, 15, 0), (150, 15, 8), (10_000, 15, 8), (1_000, 2, 2), (1_000, 0, 0)],
)
def test_who_waits_waits_for_others_only_where_some_are_likely_to_come(
    events_per_s: int, shortest_ms: int, lingers_ms: int
) -> None:
    linger = Linger(shortest_ms)
    for _ in range(40):
        linger.learn(events_per_s // 10, 100)
    assert linger.awaited_ms == lingers_ms


@pytest.mark.parametrize(
    ("events_per_s", "shortest_ms", "lingers_ms"),
    [(0, 15, 15), (180, 15, 15), (220, 15, LINGER_SHARING_MS), (1_200, 15, LINGER_SHARING_MS),
     (500, 60, 60), (1_400, 15, LINGER_MS_MAX), (10_000, 15, LINGER_MS_MAX),
     (10_000, 0, 0)],
)  # fmt: skip
def test_a_batch_lingers_for_longer_where_that_fills_it(
    events_per_s: int, shortest_ms: int, lingers_ms: int
) -> None:
    linger = Linger(shortest_ms)
    for _ in range(40):
        linger.learn(events_per_s // 10, 100.0)
    assert (linger.ms, linger.look_ms) == (lingers_ms, shortest_ms)
