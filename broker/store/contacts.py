"""Contacts: who asked whom, and what was answered.

Every change is one guarded statement, so that of an agent that asks again and one that answers at the same
moment neither undoes what the other was told.
"""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import asyncpg
from msgspec import Struct

from broker.core.contacts import Standing
from broker.store import outbox
from broker.store.page import Page, cursor_of, position_of
from broker.store.pool import Pool
from broker.store.statements import load
from schema.contact import Contact, ContactStatus
from schema.errors import NotFound
from schema.limits import PAGE_ROWS_DEFAULT
from schema.message import Envelope
from schema.times import from_ms, to_ms

_BETWEEN: Final = load("contacts_between")
_ASK: Final = load("contact_ask")
_DECIDE: Final = load("contact_decide")
_END: Final = load("contact_end")
_RATED: Final = load("contacts_rated")
_LIST: Final = load("contacts_list")


class ContactFilter(Struct, kw_only=True, frozen=True):
    """What to list. `limit` is the caller's to bound."""

    agent_id: str
    status: ContactStatus | None = None
    limit: int = PAGE_ROWS_DEFAULT
    cursor: str | None = None


class ListedContact(Struct, frozen=True):
    """A contact of the agent that was asked for, and the name of the other side."""

    contact: Contact
    peer_name: str


class Decision(Struct, kw_only=True, frozen=True):
    """What an agent answers."""

    status: ContactStatus
    rate_per_minute: int | None = None
    expires_ms: int | None = None
    reason: str | None = None


class _Position(Struct, array_like=True):
    created_at: datetime
    agent_id: str
    peer_id: str


_NOBODY: Final = str(UUID(int=0))
_START: Final = _Position(datetime.min.replace(tzinfo=UTC), _NOBODY, _NOBODY)


async def standing(pool: Pool, *, recipient: str, sender: str) -> Standing:
    """Return how a sender stands with a recipient. Raises: StoreUnavailable."""
    rows = [_contact(row) for row in await pool.fetch(_BETWEEN, recipient, sender)]
    return Standing(
        answered=next((row for row in rows if row.agent_id == recipient), None),
        answering=next((row for row in rows if row.agent_id == sender), None),
    )


async def ask(pool: Pool, request: Envelope, *, now_ms: int) -> None:
    """Open a request, or open it again, with its message in the outbox; a contact that holds is left alone.

    Raises: StoreUnavailable.
    """
    async with pool.transaction() as connection:
        args = (request.to_agent_id, request.from_agent_id, request.id, from_ms(now_ms))
        await connection.execute(_ASK, *args)
        await outbox.add(connection, request)


async def decide(
    pool: Pool,
    *,
    agent_id: str,
    peer_id: str,
    decision: Decision,
    now_ms: int,
    tell: Callable[[Contact], Envelope],
) -> tuple[Contact, Envelope | None]:
    """Answer a request, also one answered before, and put word of it into the outbox.

    The same answer again changes nothing and tells nobody. `tell`: makes the word.
    Raises: NotFound when the peer has never asked, StoreUnavailable.
    """
    async with pool.transaction() as connection:
        row = await connection.fetchrow(
            _DECIDE,
            agent_id,
            peer_id,
            decision.status.value,
            decision.rate_per_minute,
            _moment(decision.expires_ms),
            decision.reason,
            from_ms(now_ms),
        )
        if row is not None:
            contact = _contact(row)
            word = tell(contact)
            await outbox.add(connection, word)
            return contact, word
    unchanged = (await standing(pool, recipient=agent_id, sender=peer_id)).answered
    if unchanged is None:
        raise NotFound("this agent has not asked to be a contact")
    return unchanged, None


async def end(pool: Pool, *, agent_id: str, peer_id: str) -> bool:
    """End what there is between two agents, as far as it is for the first to end; tell whether there was
    anything. Raises: StoreUnavailable."""
    return bool(await pool.fetch(_END, agent_id, peer_id))


async def with_rates(pool: Pool, limit: int) -> list[str]:
    """Return agents that have set a rate on a contact. Raises: StoreUnavailable."""
    return [str(row["agent_id"]) for row in await pool.fetch(_RATED, limit)]


async def list_page(pool: Pool, wanted: ContactFilter) -> Page[ListedContact]:
    """Return a page in the order contacts began. Raises: StoreUnavailable; Rejected for a bad cursor."""
    start = _START if wanted.cursor is None else position_of(wanted.cursor, _Position)
    rows = await pool.fetch(
        _LIST,
        wanted.agent_id,
        None if wanted.status is None else wanted.status.value,
        start.created_at,
        start.agent_id,
        start.peer_id,
        wanted.limit + 1,
    )
    items = [ListedContact(_contact(row), row["other_name"]) for row in rows[: wanted.limit]]
    if len(rows) <= wanted.limit or not items:
        return Page(items)
    last = items[-1].contact
    return Page(
        items, cursor_of(_Position(rows[wanted.limit - 1]["created_at"], last.agent_id, last.peer_id))
    )


def _contact(row: asyncpg.Record) -> Contact:
    return Contact(
        agent_id=str(row["agent_id"]),
        peer_id=str(row["peer_id"]),
        status=ContactStatus(row["status"]),
        rate_per_minute=row["rate_per_minute"],
        expires_ms=_milliseconds(row["expires_at"]),
        reason=row["reason"],
        message_id=str(row["message_id"]),
        created_ms=to_ms(row["created_at"]),
        decided_ms=_milliseconds(row["decided_at"]),
    )


def _moment(at_ms: int | None) -> datetime | None:
    return None if at_ms is None else from_ms(at_ms)


def _milliseconds(moment: datetime | None) -> int | None:
    return None if moment is None else to_ms(moment)
