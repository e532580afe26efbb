"""Agents that leave: deleted at once or after a drain, and looked at until nothing of theirs is left.

A deleted agent's row stays, out of every directory: messages on record name it. `departure_look_at` says when
the keeper looks at it next; it is null for those that stay and for those that are gone.
"""

from typing import Final

from msgspec import Struct

from broker.store.pool import Pool
from broker.store.statements import load
from schema.times import from_ms, to_ms

_DELETE: Final = load("agent_delete")
_DRAIN: Final = load("agent_drain")
_DUE: Final = load("departures_due")
_LOOKED: Final = load("departure_looked")
_REVOKE: Final = load("keys_revoke_all")


class Departing(Struct, frozen=True):
    """An agent that leaves: deleted, or (0) draining until then, or (0) called back."""

    id: str
    name: str
    deleted_ms: int
    drains_until_ms: int


async def delete(
    pool: Pool, agent_id: str, *, now_ms: int, look_ms: int, only_draining: bool = False
) -> list[str] | None:
    """Delete an agent and revoke its keys; return their ids, None where there is no such agent (any more).

    Raises: StoreUnavailable.
    """
    now = from_ms(now_ms)
    async with pool.transaction() as connection:
        found = await connection.fetchval(_DELETE, agent_id, now, only_draining, from_ms(look_ms))
        if found is None:
            return None
        return [row["id"] for row in await connection.fetch(_REVOKE, agent_id, now)]


async def drain(pool: Pool, agent_id: str, *, until_ms: int, now_ms: int, look_ms: int) -> bool:
    """Let an agent drain; tell whether it is there. Raises: StoreUnavailable."""
    found = await pool.fetch_value(_DRAIN, agent_id, from_ms(until_ms), from_ms(look_ms), from_ms(now_ms))
    return found is not None


async def due(pool: Pool, *, now_ms: int, limit: int) -> list[Departing]:
    """Return the agents to look at now. Raises: StoreUnavailable."""
    return [
        Departing(
            id=str(row["id"]),
            name=row["name"],
            deleted_ms=0 if row["deleted_at"] is None else to_ms(row["deleted_at"]),
            drains_until_ms=0 if row["drains_until"] is None else to_ms(row["drains_until"]),
        )
        for row in await pool.fetch(_DUE, from_ms(now_ms), limit)
    ]


async def looked(pool: Pool, agent_id: str, *, again_ms: int | None, now_ms: int) -> None:
    """Note when to look again; None: never. Raises: StoreUnavailable."""
    again = None if again_ms is None else from_ms(again_ms)
    await pool.execute(_LOOKED, agent_id, again, from_ms(now_ms))
