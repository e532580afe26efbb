"""API keys as they are stored: never the key, only its hash."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import asyncpg
from msgspec import Struct

from broker.store.pool import Connection, Pool
from broker.store.statements import load
from schema.errors import NotFound
from schema.limits import KEYS_SHOWN_MAX
from schema.times import from_ms, to_ms

_INSERT: Final = load("key_insert")
_FIND: Final = load("key_find")
_FIND_ALL: Final = load("keys_find")
_OF_AGENT: Final = load("keys_of_agent")
_LIVE: Final = load("keys_live")
_LOCK_AGENT: Final = load("agent_lock")
_REVOKE: Final = load("key_revoke")
_EXPIRE: Final = load("key_expire")
_USED: Final = load("keys_used")
_FORGET: Final = load("keys_forget")

FORGOTTEN_ROWS: Final = 1_000


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
    used_ms: int | None = None

    def is_live(self, now_ms: int) -> bool:
        """Tell whether it works."""
        return all(end_ms is None or now_ms < end_ms for end_ms in (self.expires_ms, self.revoked_ms))


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
    return None if row is None else _key(row)


async def find_all(pool: Pool, key_ids: Sequence[str]) -> dict[str, StoredKey]:
    """Return those of the keys that there are, by id, whatever became of them. Raises: StoreUnavailable."""
    return {row["id"]: _key(row) for row in await pool.fetch(_FIND_ALL, list(key_ids))}


async def of_agent(pool: Pool, agent_id: str) -> list[StoredKey]:
    """Return an agent's keys, the newest first, also those that work no more. Raises: StoreUnavailable."""
    return [_key(row) for row in await pool.fetch(_OF_AGENT, agent_id, KEYS_SHOWN_MAX)]


async def live_with(connection: Connection, agent_id: str, *, now_ms: int) -> list[StoredKey]:
    """Return an agent's keys that work, the newest first, as part of a transaction that locks its agent, so
    that two that add keys at once see each other's. Raises: NotFound, what the driver raises."""
    if await connection.fetchval(_LOCK_AGENT, agent_id) is None:
        raise NotFound("no such agent")
    return [_key(row) for row in await connection.fetch(_LIVE, agent_id, from_ms(now_ms))]


async def revoke(pool: Pool, key_id: str, agent_id: str, *, now_ms: int) -> StoredKey | None:
    """Revoke a key of an agent; None where it has no such key. Raises: StoreUnavailable."""
    row = await pool.fetch_row(_REVOKE, key_id, agent_id, from_ms(now_ms))
    return None if row is None else _key(row)


async def expire_with(connection: Connection, key_id: str, *, at_ms: int) -> None:
    """Let a key end then, unless it ends sooner, as part of a transaction."""
    await connection.execute(_EXPIRE, key_id, from_ms(at_ms))


async def note_used(pool: Pool, used_ms: Mapping[str, int]) -> None:
    """Note when keys were last used, to the minute. Raises: StoreUnavailable."""
    if used_ms:
        # One order for everybody, so that two writers cannot deadlock.
        ids = sorted(used_ms)
        await pool.execute(_USED, ids, [used_ms[key_id] for key_id in ids])


async def forget(pool: Pool, *, ended_before_ms: int) -> int:
    """Delete keys that ended before then, a batch of them; return how many. Raises: StoreUnavailable."""
    gone: int = await pool.fetch_value(_FORGET, from_ms(ended_before_ms), FORGOTTEN_ROWS)
    return gone


def _key(row: asyncpg.Record) -> StoredKey:
    return StoredKey(
        id=row["id"],
        agent_id=None if row["agent_id"] is None else str(row["agent_id"]),
        scopes=tuple(row["scopes"]),
        hash=row["hash"],
        prefix=row["prefix"],
        created_ms=to_ms(row["created_at"]),
        expires_ms=_milliseconds(row["expires_at"]),
        revoked_ms=_milliseconds(row["revoked_at"]),
        used_ms=_milliseconds(row["last_used_at"]),
    )


def _moment(at_ms: int | None) -> datetime | None:
    return None if at_ms is None else from_ms(at_ms)


def _milliseconds(moment: Any) -> int | None:  # a column of a record is Any
    return None if moment is None else to_ms(moment)
