"""The quarantine: what could not be read or stored, with its bytes, for people to look at."""

from typing import Final

from broker.core.fold import QuarantineRow
from broker.store.pool import Connection
from broker.store.statements import load

_INSERT: Final = load("quarantine_insert")


async def insert(connection: Connection, rows: list[QuarantineRow]) -> None:
    """Keep rows; one kept before stays as it is. Raises: what the driver raises."""
    if not rows:
        return
    await connection.execute(
        _INSERT,
        [row.at_ms for row in rows],
        [row.shard for row in rows],
        [row.stream for row in rows],
        [row.entry for row in rows],
        [row.reason for row in rows],
        [row.detail for row in rows],
        [row.raw for row in rows],
    )
