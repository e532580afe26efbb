"""Days of the record: there before they are needed, gone after the retention."""

from datetime import UTC, datetime, timedelta

import pytest

from broker.store import partitions
from broker.store.pool import Pool, open_pool
from broker.telemetry import metrics
from schema.errors import StoreUnavailable
from schema.times import to_ms
from workers.keeping.days import Days

DAY_MS = 24 * 3600 * 1000


def now_ms() -> int:
    return to_ms(datetime.now(UTC))


async def test_partitions_exist_seven_days_ahead(any_database_url: str) -> None:
    pool = await open_pool(any_database_url, application_name="test")
    # Three days later than the migration, whose partitions no longer reach that far.
    later_ms = now_ms() + 3 * DAY_MS
    days = Days(pool, retention_days=30, now_ms=lambda: later_ms)
    await days.keep()

    assert await partitions.days_ahead(pool, partitions.day_of(later_ms)) == 7
    await pool.aclose()


async def test_days_beyond_the_retention_are_dropped(pool: Pool) -> None:
    today = datetime.now(UTC).date()
    await partitions.ensure_day(pool, today - timedelta(days=5))
    await partitions.ensure_day(pool, today - timedelta(days=4))
    changed = metrics.KEPT.child(job="partitions")
    before = changed.value
    days = Days(pool, retention_days=4, now_ms=now_ms)
    await days.keep()
    await days.keep()

    assert changed.value - before == 2
    names = [row["relname"] for row in await pool.fetch("SELECT relname FROM pg_class WHERE relkind = 'r'")]
    assert f"agent_messages_p{today - timedelta(days=4):%Y%m%d}" in names
    assert f"agent_messages_p{today - timedelta(days=5):%Y%m%d}" not in names
    assert f"message_delivery_log_p{today - timedelta(days=5):%Y%m%d}" not in names


async def test_the_days_ahead_shrink_while_nobody_can_make_more(pool: Pool) -> None:
    moment_ms = now_ms()
    days = Days(pool, retention_days=30, now_ms=lambda: moment_ms)
    assert days._days_ahead() == -1
    await days.keep()
    assert days._days_ahead() == 7
    moment_ms += 2 * DAY_MS
    assert days._days_ahead() == 5


async def test_a_store_that_is_away_is_the_callers_to_retry() -> None:
    away = await open_pool("postgresql://nobody@127.0.0.1:1/nothing", application_name="test")
    with pytest.raises(StoreUnavailable):
        await Days(away, retention_days=30, now_ms=now_ms).keep()
    await away.aclose()
