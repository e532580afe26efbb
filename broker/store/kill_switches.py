"""Kill switches: what operators have switched off. Few rows, read whole by whoever must know."""

from collections.abc import Iterable
from typing import Final

import asyncpg

from broker.core.barriers import Switches
from broker.store.pool import Pool
from broker.store.statements import load
from schema.errors import Conflict, TooManySwitches
from schema.limits import KILL_SWITCHES_MAX
from schema.trip import KillSwitchView

_ALL: Final = load("kill_switches_all")
_INSERT: Final = load("kill_switch_insert")
_DELETE: Final = load("kill_switch_delete")


async def every(pool: Pool) -> list[KillSwitchView]:
    """Return all of them, the oldest first. Raises: StoreUnavailable."""
    return [_view(row) for row in await pool.fetch(_ALL)]


async def add(pool: Pool, switch: KillSwitchView) -> None:
    """Switch something off. Raises: Conflict where it is already, TooManySwitches, StoreUnavailable."""
    async with pool.connection() as connection:
        try:
            added = await connection.fetchval(
                _INSERT,
                switch.id,
                switch.agent_id,
                switch.peer_id,
                switch.root_id,
                switch.reason,
                switch.created_at,
                KILL_SWITCHES_MAX,
            )
        except asyncpg.UniqueViolationError:
            raise Conflict("this is switched off already") from None
    if added is None:
        raise TooManySwitches(f"{KILL_SWITCHES_MAX} kill switches are set; take one away first")


async def remove(pool: Pool, switch_id: str) -> bool:
    """Take a switch away; tell whether it was there. Raises: StoreUnavailable."""
    return await pool.fetch_value(_DELETE, switch_id) is not None


async def in_force(pool: Pool) -> Switches:
    """Return what is switched off. Raises: StoreUnavailable."""
    return switches_of(await every(pool))


def switches_of(views: Iterable[KillSwitchView]) -> Switches:
    """Return what these switch off; a pair either way."""
    agents, pairs, roots = set(), set(), set()
    for view in views:
        if view.root_id is not None:
            roots.add(view.root_id)
        elif view.agent_id is not None and view.peer_id is not None:
            pairs |= {(view.agent_id, view.peer_id), (view.peer_id, view.agent_id)}
        elif view.agent_id is not None:
            agents.add(view.agent_id)
    return Switches(frozenset(agents), frozenset(pairs), frozenset(roots))


def kind_of(agent_id: str | None, peer_id: str | None) -> str:
    """Return what kind of switch names these."""
    if agent_id is None:
        return "root"
    return "agent" if peer_id is None else "pair"


def _view(row: asyncpg.Record) -> KillSwitchView:
    agent_id, peer_id, root_id = (_text(row[name]) for name in ("agent_id", "peer_id", "root_id"))
    return KillSwitchView(
        id=str(row["id"]),
        kind=kind_of(agent_id, peer_id),
        agent_id=agent_id,
        peer_id=peer_id,
        root_id=root_id,
        reason=row["reason"],
        created_at=row["created_at"],
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)
