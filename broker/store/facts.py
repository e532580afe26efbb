"""What a PostgreSQL says of itself, for the doctor."""

import time
from datetime import UTC, datetime
from typing import Final

from broker.core.diagnosis import PostgresFacts
from broker.store import partitions
from broker.store.migrate import migrations, pending
from broker.store.pool import Pool
from broker.store.statements import load
from schema.errors import StoreUnavailable

_FACTS: Final = load("postgres_facts")
_QUARANTINED: Final = load("quarantine_count")


async def postgres_facts(pool: Pool) -> PostgresFacts:
    """Ask. Raises: StoreUnavailable."""
    asked_ms = time.time_ns() // 1_000_000
    row = await pool.fetch_row(_FACTS)
    if row is None:
        raise StoreUnavailable("PostgreSQL answered nothing")
    missing = tuple(await pending(pool))
    has_tables = len(missing) < len(migrations())
    return PostgresFacts(
        version=row["version"],
        fsync=row["fsync"],
        full_page_writes=row["full_page_writes"],
        synchronous_commit=row["synchronous_commit"],
        in_recovery=row["in_recovery"],
        read_only=row["read_only"],
        encoding=row["encoding"],
        max_connections=row["max_connections"],
        connections=row["connections"],
        autovacuum=row["autovacuum"],
        clock_ahead_ms=row["now_ms"] - asked_ms,
        pending=missing,
        quarantined=await pool.fetch_value(_QUARANTINED) if has_tables else None,
        days_ahead=await partitions.days_ahead(pool, datetime.now(UTC).date()) if has_tables else None,
    )
