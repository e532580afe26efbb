"""The keeper folds statistics and forgets idempotency keys, once per deployment."""

import asyncio
from contextlib import suppress
from datetime import UTC, datetime, timedelta

import pytest
from keeper_rig import StartKeeper, until
from ledger_events import envelope, settled

from broker.core.fold import fold
from broker.store import idempotency, partitions, record, statistics
from broker.store.pool import Pool, open_pool
from schema.errors import StoreUnavailable
from schema.ids import new_id
from schema.limits import IDEMPOTENCY_MS
from schema.times import to_ms
from workers.keeping import statistics as keeping
from workers.keeping.forgetting import of_idempotency_keys
from workers.keeping.statistics import Statistics


def now_ms() -> int:
    return to_ms(datetime.now(UTC))


def keeper_of(pool: Pool, *, retention_days: int = 30, later_ms: int = 0) -> Statistics:
    return Statistics(pool, retention_days=retention_days, now_ms=lambda: now_ms() + later_ms)


async def unfolded(pool: Pool) -> int:
    count: int = await pool.fetch_value("SELECT count(*) FROM statistics_deltas")
    return count


async def test_everything_noted_is_folded_in_batches(pool: Pool, monkeypatch) -> None:
    monkeypatch.setattr(keeping, "FOLD_MESSAGES_MAX", 7)
    for _ in range(4):
        await record.write(pool, fold([settled(envelope()) for _ in range(5)]))
    assert await keeper_of(pool).fold() == 20
    assert await unfolded(pool) == 0
    assert await pool.fetch_value("SELECT sum(messages) FROM statistics_totals WHERE side = 'all'") == 20


async def test_a_fold_that_failed_is_tried_with_less(pool: Pool) -> None:
    await record.write(pool, fold([settled(envelope())]))
    keeper = keeper_of(pool)
    await pool.execute("ALTER TABLE statistics_totals RENAME TO hidden")
    tried = []
    for _ in range(11):
        with pytest.raises(StoreUnavailable):
            await keeper.fold()
        tried.append(keeper._messages)
    assert tried[:3] == [keeping.FOLD_MESSAGES_MAX // parts for parts in (2, 4, 8)]
    assert tried[-2:] == [keeping.FOLD_MESSAGES_MIN] * 2
    await pool.execute("ALTER TABLE hidden RENAME TO statistics_totals")
    assert await keeper.fold() == 1
    assert await unfolded(pool) == 0


async def test_days_and_minutes_that_are_over_are_tidied(pool: Pool) -> None:
    today = datetime.now(UTC).date()
    for days_ago in (6, 5, 0):
        made = datetime.now(UTC) - timedelta(days=days_ago)
        await partitions.ensure_day(pool, made.date())
        await record.write(pool, fold([settled(envelope(created_at=made))]))
    keeper = keeper_of(pool, retention_days=3)
    await keeper.fold()
    await partitions.drop_older(pool, today, 3)
    await keeper.tidy()
    days = await pool.fetch("SELECT DISTINCT day FROM statistics_totals ORDER BY 1")
    assert [row["day"] for row in days] == [today - timedelta(days=6), today]
    assert await pool.fetch_value("SELECT count(*) FROM statistics_minutes") > 0
    await keeper_of(pool, later_ms=3 * 3_600_000).tidy()
    assert await pool.fetch_value("SELECT count(*) FROM statistics_minutes") == 0


async def test_delivery_times_of_an_earlier_release_are_moved_while_it_folds(pool: Pool, monkeypatch) -> None:
    monkeypatch.setattr(keeping, "FOLD_S", 0.01)
    monkeypatch.setattr(keeping, "TIDY_S", 0.1)
    monkeypatch.setattr(statistics, "BATCH_ROWS", 3)
    write = (
        "INSERT INTO statistics_deliveries SELECT $1, 'received', current_date, bucket, 1, 10"
        " FROM generate_series(1, 10) AS bucket"
    )
    agents = [new_id(), new_id()]

    async def moved() -> bool:
        return await pool.fetch_value("SELECT count(*) FROM statistics_deliveries") == 0

    task = asyncio.ensure_future(keeper_of(pool).run())
    try:
        for agent in agents:  # The second one by a keeper that has not been upgraded yet.
            await pool.execute(write, agent)
            await until(moved, "delivery times moved")
            found = await statistics.read(pool, agent, minutes_since_ms=now_ms())
            assert [(one.bucket, one.messages, one.total_ms) for one in found.deliveries] == [
                (bucket, 1, 10) for bucket in range(1, 11)
            ]
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_postgres_being_away_is_waited_for() -> None:
    away = await open_pool("postgresql://nobody@127.0.0.1:1/nothing", application_name="test")
    for job in (keeper_of(away), of_idempotency_keys(away, now_ms=now_ms)):
        task = asyncio.ensure_future(job.run())
        done, _ = await asyncio.wait((task,), timeout=0.2)
        assert not done
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    await away.aclose()


async def test_keys_are_forgotten_after_a_day_and_not_before(pool: Pool, monkeypatch) -> None:
    monkeypatch.setattr(idempotency, "BATCH_ROWS", 2)
    for number in range(5):
        at_ms = now_ms() - IDEMPOTENCY_MS - 60_000 * (number - 1)
        await idempotency.claim(pool, bytes([number]), b"", target_id=new_id(), now_ms=at_ms)
    assert await of_idempotency_keys(pool, now_ms=now_ms).forget() == 4
    assert [row["key"] for row in await pool.fetch("SELECT key FROM idempotency_keys")] == [b"\x00"]


async def test_a_keeper_process_does_both(
    streams_url: str, database_url: str, pool: Pool, start_keeper: StartKeeper
) -> None:
    await record.write(pool, fold([settled(envelope())]))
    at_ms = now_ms() - IDEMPOTENCY_MS - 1_000
    await idempotency.claim(pool, b"k", b"", target_id=new_id(), now_ms=at_ms)
    keeper = start_keeper(streams_url, database_url)

    async def kept() -> bool:
        keys = await pool.fetch_value("SELECT count(*) FROM idempotency_keys")
        return keys == 0 and await unfolded(pool) == 0

    await until(kept, "statistics folded and keys forgotten")
    counted = await statistics.read(pool, statistics.DEPLOYMENT, minutes_since_ms=now_ms())
    assert [total.messages for total in counted.totals] == [1]
    assert 'agent_broker_kept_messages_total{job="statistics"} 1.0' in await keeper.metrics()
    await keeper.stop()
