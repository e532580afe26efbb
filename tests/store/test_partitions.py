"""Days of messages and attempts: made ahead, made on demand, dropped by the table."""

import asyncio
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta

from broker.store import partitions
from broker.store.pool import Pool
from schema.errors import StoreUnavailable

TODAY = datetime.now(UTC).date()
TABLES = ("agent_messages", "message_delivery_log")


async def attached(pool: Pool) -> set[str]:
    rows = await pool.fetch("SELECT inhrelid::regclass::text AS name FROM pg_inherits")
    return {row["name"] for row in rows if "_p" in row["name"] and row["name"][-8:].isdigit()}


def named(day: date) -> set[str]:
    return {f"{table}_p{day:%Y%m%d}" for table in TABLES}


async def test_partitions_reach_from_yesterday_to_a_week_ahead(any_pool: Pool) -> None:
    await partitions.ensure_ahead(any_pool, TODAY)
    days = [TODAY + timedelta(days=days) for days in range(-1, 8)]
    assert await attached(any_pool) >= set().union(*map(named, days))
    assert await partitions.days_ahead(any_pool, TODAY) == 7
    assert await partitions.ensure_ahead(any_pool, TODAY) == 0
    assert await partitions.ensure_ahead(any_pool, TODAY + timedelta(days=1)) == 2


async def test_a_partition_has_the_indexes_of_its_table_and_no_others(any_pool: Pool) -> None:
    loose = await any_pool.fetch(
        "SELECT indexrelid::regclass AS name FROM pg_index"
        " JOIN pg_class ON pg_class.oid = indrelid"
        " WHERE relname ~ '_p[0-9]{8}$' AND NOT EXISTS"
        " (SELECT FROM pg_inherits WHERE inhrelid = indexrelid)"
    )
    assert not loose


async def test_many_may_make_the_same_day_at_once(pool: Pool) -> None:
    day = TODAY + timedelta(days=20)

    async def make() -> int:
        while True:
            # Who has waited for the others for too long, on a slow machine, asks again, as the recorder does.
            with suppress(StoreUnavailable):
                return await partitions.ensure_day(pool, day)

    made = await asyncio.gather(*(make() for _ in range(4)))
    assert sorted(made) == [0, 0, 0, 2]


async def test_days_beyond_the_retention_are_dropped_and_no_others(any_pool: Pool) -> None:
    for age in (40, 31, 30):
        await partitions.ensure_day(any_pool, TODAY - timedelta(days=age))
    dropped = await partitions.drop_older(any_pool, TODAY, 30)
    expected = named(TODAY - timedelta(days=40)) | named(TODAY - timedelta(days=31))
    assert set(dropped) == expected
    names = {row["relname"] for row in await any_pool.fetch("SELECT relname FROM pg_class")}
    assert not names & expected
    assert names >= named(TODAY - timedelta(days=30))
    assert await partitions.drop_older(any_pool, TODAY, 30) == []


async def test_a_drop_that_was_interrupted_goes_on(any_pool: Pool) -> None:
    day = TODAY - timedelta(days=50)
    await partitions.ensure_day(any_pool, day)
    name = f"agent_messages_p{day:%Y%m%d}"
    await any_pool.execute(f"ALTER TABLE agent_messages DETACH PARTITION {name} CONCURRENTLY")
    assert set(await partitions.drop_older(any_pool, TODAY, 30)) == named(day)


async def test_a_detach_that_stayed_half_done_is_finalised(any_pool: Pool) -> None:
    day = TODAY - timedelta(days=50)
    await partitions.ensure_day(any_pool, day)
    name = f"agent_messages_p{day:%Y%m%d}"
    async with any_pool.transaction() as reader:
        await reader.fetch("SELECT count(*) FROM agent_messages")
        async with any_pool.connection() as other:
            # The reader's snapshot keeps the second step from happening; the time-out leaves it pending.
            await other.execute("SET statement_timeout = 200")
            try:
                await other.execute(f"ALTER TABLE agent_messages DETACH PARTITION {name} CONCURRENTLY")
            except Exception as error:
                assert getattr(error, "sqlstate", "") == "57014"  # noqa: PT017
            await other.execute("SET statement_timeout = 10000")
    assert await any_pool.fetch_value("SELECT count(*) FROM pg_inherits WHERE inhdetachpending") == 1
    assert set(await partitions.drop_older(any_pool, TODAY, 30)) == named(day)


def test_the_day_of_a_time_beyond_all_dates_is_a_date() -> None:
    assert partitions.day_of(10**18) == date.max
    assert partitions.day_of(-(10**18)) == date.min
    assert partitions.day_of(0) == date(1970, 1, 1)
