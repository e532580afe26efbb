"""Messages as the HTTP edge asks for them: one, a page, why this agent; and their changes of status.

A change is one guarded UPDATE: the row moves only from a status that may become the wanted one, so of two
that race exactly one wins and the other reads what happened.
"""

from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import asyncpg
import msgspec
from msgspec import Raw, Struct

from broker.core.lifecycle import may_become
from broker.store import bounces
from broker.store.page import Page, cursor_of, position_of
from broker.store.pool import Connection, Pool
from broker.store.statements import load
from broker.store.window import EVER, MARGIN_S, made_within
from schema.errors import IllegalTransition, NotFound
from schema.limits import PAGE_ROWS_DEFAULT
from schema.message import MessageView, Status

_GET: Final = load("message_get")
_TRANSITION: Final = load("message_transition")
_ROUTE: Final = load("message_route")
_REPLIES: Final = load("replies_to")
_BY_RECIPIENT: Final = load("messages_by_recipient")
_BY_CONVERSATION: Final = load("messages_by_conversation")
_BY_SENDER: Final = load("messages_by_sender")
_BY_PARTY: Final = load("messages_by_party")
_ALL: Final = load("messages_all")

_requirements: Final = msgspec.json.Decoder(tuple[str, ...])
REPLIES_LOOKED_AT_MAX: Final = 10
"""Replies to one message that whoever waits for the first of them looks at."""
_ALL_STATUSES: Final = [status.value for status in Status]


class MessageFilter(Struct, kw_only=True, frozen=True):
    """What to list. Agents by UUID. `limit` is the caller's to bound.

    `party`: with a conversation and nobody else named, only what this agent sent or got.
    """

    to_agent_id: str | None = None
    from_agent_id: str | None = None
    conversation_id: str | None = None
    party: str | None = None
    status: Status | None = None
    message_type: str | None = None
    limit: int = PAGE_ROWS_DEFAULT
    cursor: str | None = None


class StoredMessage(Struct, frozen=True):
    """A message as shown, and what taking it off the streams takes: its entry there (in a mailbox; without a
    recipient, among those parked; None where unknown), its round, the capabilities it names."""

    view: MessageView
    mailbox_entry: str | None
    round: int = 0
    requirements: tuple[str, ...] = ()


class TransitionOutcome(Struct, frozen=True):
    """The message after a change of status; `changed` is False when it had that status before."""

    stored: StoredMessage
    changed: bool

    @property
    def view(self) -> MessageView:
        return self.stored.view


class Position(Struct, array_like=True):
    """The place of a row in every listing of messages."""

    priority: int
    created_at: datetime
    id: str


START: Final = Position(0, datetime.min.replace(tzinfo=UTC), str(UUID(int=0)))


async def get(pool: Pool, message_id: str) -> MessageView | None:
    """Return a message, or None. Raises: StoreUnavailable."""
    stored = await find(pool, message_id)
    return None if stored is None else stored.view


async def find(pool: Pool, message_id: str) -> StoredMessage | None:
    """Return a message with its mailbox entry, or None. Raises: StoreUnavailable."""
    row = await _probe(pool, _GET, message_id)
    return None if row is None else _stored(row)


async def list_page(pool: Pool, wanted: MessageFilter) -> Page[MessageView]:
    """Return a page ordered by priority, time of creation and id.

    Without a recipient, sender or conversation no index helps: an operator's question, answered slowly.
    Raises: StoreUnavailable, Rejected (a cursor that is none).
    """
    start = START if wanted.cursor is None else position_of(wanted.cursor, Position)
    rows = await pool.fetch(
        _listing(wanted),
        wanted.to_agent_id or wanted.party,
        wanted.from_agent_id,
        wanted.conversation_id,
        _ALL_STATUSES if wanted.status is None else [wanted.status.value],
        wanted.message_type,
        start.priority,
        start.created_at,
        start.id,
        wanted.limit + 1,
    )
    return page_of(rows, wanted.limit)


async def transition(
    pool: Pool,
    message_id: str,
    wanted: Status,
    *,
    now_ms: int,
    result: bytes | None = None,
    reason: str | None = None,
) -> TransitionOutcome:
    """Move a message to a status; one that has it already is returned as it is.

    Whether the caller may ask for this is not checked here. Raises: NotFound, IllegalTransition,
    StoreUnavailable, DataFault (a result that JSONB does not take).
    """
    allowed = [status.value for status in Status if may_become(status, wanted)]
    document = None if result is None else result.decode()
    async with pool.transaction() if wanted is Status.FAILED else pool.connection() as connection:
        arguments = (allowed, wanted.value, document, reason, now_ms)
        row = await _probe_on(connection, _TRANSITION, message_id, *arguments)
        if row is not None and wanted is Status.FAILED:
            # In the same transaction: its sender is told exactly if this is how it ended.
            await bounces.tell(connection, [(message_id, row["created_at"])])
    if row is not None:
        return TransitionOutcome(_stored(row), changed=True)
    stored = await find(pool, message_id)
    if stored is None:
        raise NotFound(f"no message {message_id}")
    if stored.view.status != wanted.value:
        raise IllegalTransition(f"a {stored.view.status} message cannot become {wanted.value}")
    return TransitionOutcome(stored, changed=False)


async def end(connection: Connection, message_id: str, *arguments: object) -> StoredMessage | None:
    """Move a message to its end within a transaction, as `message_transition.sql` says; None where it is not
    there or not in one of the statuses it may be in. Raises: what the driver raises."""
    row = await _probe_on(connection, _TRANSITION, message_id, *arguments)
    return None if row is None else _stored(row)


async def replies_to(pool: Pool, message_id: str, *, sent_ms: int) -> list[MessageView]:
    """Return what was recorded in reply to a message sent at this time, oldest first, no more than a few.

    Raises: StoreUnavailable.
    """
    since_s = sent_ms / 1000 - MARGIN_S
    return [view_of(row) for row in await pool.fetch(_REPLIES, message_id, since_s, REPLIES_LOOKED_AT_MAX)]


async def route_of(pool: Pool, message_id: str) -> bytes | None:
    """Return the stored explanation of a choice by capability as JSON; None where there is none."""
    row = await _probe(pool, _ROUTE, message_id)
    return None if row is None or row["route"] is None else row["route"].encode()


async def _probe(pool: Pool, statement: str, message_id: str, *args: object) -> asyncpg.Record | None:
    """Run a statement on an id ($1) and a window ($2, $3): first the days the id names, then every day."""
    async with pool.connection() as connection:
        return await _probe_on(connection, statement, message_id, *args)


async def _probe_on(
    connection: Connection, statement: str, message_id: str, *args: object
) -> asyncpg.Record | None:
    for window in (made_within([message_id]), EVER):
        row = await connection.fetchrow(statement, message_id, *window, *args)
        if row is not None:
            return row
    return None


def _listing(wanted: MessageFilter) -> str:
    if wanted.party is not None:
        assert wanted.conversation_id is not None
        assert wanted.to_agent_id is None
        assert wanted.from_agent_id is None
        return _BY_PARTY
    if wanted.to_agent_id is not None:
        return _BY_RECIPIENT
    if wanted.conversation_id is not None:
        return _BY_CONVERSATION
    if wanted.from_agent_id is not None:
        return _BY_SENDER
    return _ALL


def page_of(rows: list[asyncpg.Record], limit: int) -> Page[MessageView]:
    """Return the page in the rows of a listing that was asked for one row more than the page has."""
    views = [view_of(row) for row in rows[:limit]]
    if len(rows) <= limit or not views:
        return Page(views)
    last = views[-1]
    return Page(views, cursor_of(Position(last.priority, last.created_at, last.id)))


def view_of(row: asyncpg.Record) -> MessageView:
    """Return the message in a row of `message_columns.sql`."""
    """Return the message in a row of `message_columns.sql`."""
    message_id = str(row["id"])
    return MessageView(
        id=message_id,
        from_agent_id=_text(row["from_agent_id"]),
        to_agent_id=_text(row["to_agent_id"]),
        conversation_id=row["conversation_id"],
        message_type=row["message_type"],
        priority=row["priority"],
        content=Raw(row["content"].encode()),
        metadata=Raw(row["metadata"].encode()),
        status=row["status"],
        retry_count=row["retry_count"],
        expires_at=row["expires_at"],
        created_at=row["created_at"],
        delivered_at=row["delivered_at"],
        processed_at=row["processed_at"],
        result=None if row["result"] is None else Raw(row["result"].encode()),
        status_reason=row["status_reason"],
        reply_to=_text(row["reply_to"]),
        root_id=_text(row["root_id"]) or message_id,
        hop=row["hop"],
        deliver_at=row["deliver_at"],
        next_attempt_at=row["next_attempt_at"],
    )


def _stored(row: asyncpg.Record) -> StoredMessage:
    named = row["requirements"]
    requirements = () if named is None else _requirements.decode(named)
    return StoredMessage(view_of(row), row["mailbox_entry"], row["round"], requirements)


def _text(value: object) -> str | None:
    return None if value is None else str(value)
