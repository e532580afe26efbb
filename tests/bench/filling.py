"""Fills the record with millions of rows, as fast as PostgreSQL takes them.

A day's table is filled while it is nobody's, then gets the indexes of its parent, and is attached at the end.
No trigger fires, so what statistics would have counted is summed up here. It measures nothing.
"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import Final

import asyncpg

DAYS: Final = 30
"""Partitions the rows are spread over, today's not among them."""
FILLERS: Final = 2
ORDERS_PER_ROW: Final = 0.01
SETTINGS: Final = {
    "maintenance_work_mem": "256MB",
    "work_mem": "64MB",
    "synchronous_commit": "off",
    "session_replication_role": "replica",
    # The fillers share the cores already.
    "max_parallel_workers_per_gather": "0",
    "max_parallel_maintenance_workers": "0",
}
"""Of these sessions alone, which do nothing that has to last: no trigger fires in them."""
_SQL: Final = Path(__file__).parent / "sql"
_DAY: Final = (_SQL / "fill_day.sql").read_text()
_INDEXES: Final = (_SQL / "fill_indexes.sql").read_text()
_TOTALS: Final = (_SQL / "fill_totals.sql").read_text()
_ORDERS: Final = (_SQL / "fill_orders.sql").read_text()


async def fill(database_url: str, agents: Sequence[str], *, rows: int, today: date) -> list[date]:
    """Replace what is on record by so many messages in the days before today; return those days."""
    days = [today - timedelta(days=back) for back in range(1, DAYS + 1)]
    owner = await asyncpg.connect(database_url, server_settings=SETTINGS)
    try:
        await owner.execute(
            "TRUNCATE statistics_totals, statistics_deliveries, statistics_times, statistics_minutes,"
            " work_orders CASCADE"
        )
        await owner.execute(_ORDERS, int(rows * ORDERS_PER_ROW), agents)
        left, attaching = list(days), asyncio.Lock()
        async with asyncio.TaskGroup() as group:
            for _ in range(FILLERS):
                group.create_task(_fill_days(database_url, left, attaching, agents, rows // DAYS))
        # Only now: beside another's insert a row counts as one that somebody may not see yet.
        left = list(days)
        async with asyncio.TaskGroup() as group:
            for _ in range(FILLERS):
                group.create_task(_vacuum_days(database_url, left))
        await owner.execute("ANALYZE agent_messages")
        await owner.execute("VACUUM (ANALYZE) work_orders, statistics_totals")
    finally:
        await owner.close()
    return days


async def _fill_days(
    database_url: str, left: list[date], attaching: asyncio.Lock, agents: Sequence[str], rows: int
) -> None:
    connection = await asyncpg.connect(database_url, server_settings=SETTINGS)
    try:
        while left:
            await _fill_day(connection, left.pop(), attaching, agents, rows)
    finally:
        await connection.close()


async def _vacuum_days(database_url: str, left: list[date]) -> None:
    connection = await asyncpg.connect(database_url, server_settings=SETTINGS)
    try:
        while left:
            await connection.execute(f"VACUUM (ANALYZE) {_table(left.pop())}")
    finally:
        await connection.close()


async def _fill_day(
    connection: "asyncpg.Connection[asyncpg.Record]",
    day: date,
    attaching: asyncio.Lock,
    agents: Sequence[str],
    rows: int,
) -> None:
    table, begins = _table(day), datetime.combine(day, time(), UTC)
    ends = begins + timedelta(days=1)
    async with attaching:  # Two would wait for each other in the server.
        await connection.execute(f"DROP TABLE IF EXISTS {table}")
        await connection.execute(f"CREATE TABLE {table} (LIKE agent_messages INCLUDING DEFAULTS)")
    await connection.execute(_DAY.replace("{table}", table), rows, begins, agents)
    for row in await connection.fetch(_INDEXES, table):
        await connection.execute(row["statement"])
    await connection.execute(_TOTALS.replace("{table}", table))
    async with attaching:
        await connection.execute(
            f"ALTER TABLE agent_messages ATTACH PARTITION {table} FOR VALUES FROM ('{begins}') TO ('{ends}')"
        )


def _table(day: date) -> str:
    return f"agent_messages_p{day:%Y%m%d}"
