"""API keys as they are stored: never the key, only its hash."""

from datetime import datetime
from typing import Any, Final

from msgspec import Struct

from broker.store.pool import Connection, Pool
from broker.store.statements import load
from schema.times import from_ms, to_ms

_INSERT: Final = load("key_insert")
_FIND: Final = load("key_find")


class StoredKey(Struct, kw_only=True, frozen=True):
    """A key by its public id. `agent_id` None: an operator's. `prefix`: what may be shown again."""

    id: str
    agent_id: str | None
    scopes: tuple[str, ...]
    hash: bytes
    prefix: str
    created_ms: int
    expires_ms: int | None = None
    revoked_ms: int | None = None


async def insert(pool: Pool, key: StoredKey) -> None:
    """Store a key. Raises: StoreUnavailable, DataFault (the id is taken, or the agent is gone)."""
    async with pool.connection() as connection:
        await insert_with(connection, key)


async def insert_with(connection: Connection, key: StoredKey) -> None:
    """Store a key as part of a transaction. Raises: what the driver raises."""
    await connection.execute(
        _INSERT,
        key.id,
        key.agent_id,
        key.scopes,
        key.hash,
        key.prefix,
        from_ms(key.created_ms),
        _moment(key.expires_ms),
        _moment(key.revoked_ms),
    )


async def find(pool: Pool, key_id: str) -> StoredKey | None:
    """Return a key, also an expired or revoked one, or None. Raises: StoreUnavailable."""
    row = await pool.fetch_row(_FIND, key_id)
    if row is None:
        return None
    return StoredKey(
        id=row["id"],
        agent_id=None if row["agent_id"] is None else str(row["agent_id"]),
        scopes=tuple(row["scopes"]),
        hash=row["hash"],
        prefix=row["prefix"],
        created_ms=to_ms(row["created_at"]),
        expires_ms=_milliseconds(row["expires_at"]),
        revoked_ms=_milliseconds(row["revoked_at"]),
    )


def _moment(at_ms: int | None) -> datetime | None:
    return None if at_ms is None else from_ms(at_ms)


def _milliseconds(moment: Any) -> int | None:  # a column of a record is Any
    return None if moment is None else to_ms(moment)
