"""Days of the two hot tables: made ahead, made when missing, dropped when older than the retention.

Retention drops whole tables: `DETACH .. CONCURRENTLY` (which does not lock the parent against the recorder,
and cannot run in a transaction), then `DROP`. Interrupted between its two steps, the next run finalises it.
"""

from datetime import UTC, date, datetime, timedelta
from typing import Final

from msgspec import Struct

from broker.store.pool import Pool
from broker.store.statements import load

DAYS_AHEAD: Final = 7

_ENSURE: Final = load("partitions_ensure")
_EXPIRED: Final = load("partitions_expired")
_LATEST: Final = load("partitions_latest")


class Kept(Struct, frozen=True):
    """The days a deployment keeps, both ends included."""

    first: date
    last: date

    def __contains__(self, day: date) -> bool:
        return self.first <= day <= self.last


def kept(today: date, retention_days: int) -> Kept:
    """Return the days for which partitions may be made."""
    return Kept(today - timedelta(days=retention_days), today + timedelta(days=DAYS_AHEAD))


def day_of(at_ms: int) -> date:
    """Return the UTC day of a time; the nearest one there is a date for."""
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC).date()
    except (OverflowError, ValueError, OSError):
        return date.max if at_ms > 0 else date.min


async def ensure_ahead(pool: Pool, today: date, days: int = DAYS_AHEAD) -> int:
    """Make the partitions from yesterday to `days` ahead; return how many tables that took.

    Yesterday's are needed for what is recorded after midnight. Raises: StoreUnavailable.
    """
    made: int = await pool.fetch_value(_ENSURE, today - timedelta(days=1), days + 2)
    return made


async def ensure_day(pool: Pool, day: date) -> int:
    """Make the partitions of one day; return how many tables that took. Raises: StoreUnavailable."""
    made: int = await pool.fetch_value(_ENSURE, day, 1)
    return made


async def days_ahead(pool: Pool, today: date) -> int:
    """Return for how many days after today there are partitions; negative when today has none."""
    latest: date | None = await pool.fetch_value(_LATEST)
    return (latest - today).days if latest is not None else -1


async def drop_older(pool: Pool, today: date, retention_days: int) -> list[str]:
    """Drop the partitions of days before `today - retention_days`; return their names.

    Raises: StoreUnavailable, for instance because a long query still reads one; the next run goes on.
    """
    dropped = []
    for row in await pool.fetch(_EXPIRED, today - timedelta(days=retention_days)):
        async with pool.connection() as connection:
            # Each statement by itself: the first one cannot run in a transaction.
            for statement in row["statements"]:
                await connection.execute(statement)
        dropped.append(row["name"])
    return dropped
