"""Dead letters: messages that failed or expired, listed newest first, and begun anew.

Beginning anew is a new round of the same message: the row goes back to pending with the next round, which
events of rounds before cannot touch. Who replays holds the rows' locks from reading them until they are
pending, so of two at the same time only one replays each.
"""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final
from uuid import UUID

import asyncpg
import msgspec
from msgspec import Struct

from broker.store.messages import view_of
from broker.store.page import Page, cursor_of, position_of
from broker.store.pool import Connection, Pool
from broker.store.statements import load
from broker.store.window import EVER, made_within
from schema.dead_letter import DeadLetter
from schema.limits import PAGE_ROWS_DEFAULT
from schema.message import Envelope

_ALL: Final = load("dead_letters_all")
_OF_AGENT: Final = load("dead_letters_of_agent")
_RECEIVED: Final = load("dead_letters_received")
_SENT: Final = load("dead_letters_sent")
_COUNTS: Final = {
    _ALL: load("dead_letters_count"),
    _OF_AGENT: load("dead_letters_count_of_agent"),
    _RECEIVED: load("dead_letters_count_received"),
    _SENT: load("dead_letters_count_sent"),
}
"""One for each listing: of those of one agent or side, no index but its own is to be read."""
_LOCK: Final = load("dead_letters_lock")
_READ: Final = load("dead_letters_read")
_RESTART: Final = load("dead_letters_restart")


class DeadLetterFilter(Struct, kw_only=True, frozen=True):
    """What to list. `agent_id`: recipient or sender. `since`, `until`: created then or later, and before
    then. `limit` is the caller's to bound."""

    agent_id: str | None = None
    from_agent_id: str | None = None
    to_agent_id: str | None = None
    reason: str | None = None
    message_type: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    limit: int = PAGE_ROWS_DEFAULT
    cursor: str | None = None


class WholeLetter(Struct, frozen=True):
    """A dead letter with what replaying it takes. `requirements`: the capabilities it named, where it named
    any. `chosen`: its recipient was chosen by them."""

    letter: DeadLetter
    requirements: list[str] | None
    chosen: bool


class _Position(Struct, array_like=True):
    """The place of a row in the listing."""

    created_at: datetime
    id: str


_START: Final = _Position(datetime.max.replace(tzinfo=UTC), str(UUID(int=2**128 - 1)))
_requirements: Final = msgspec.json.Decoder(list[str])


async def list_page(pool: Pool, wanted: DeadLetterFilter) -> Page[DeadLetter]:
    """Return a page, newest first. Raises: StoreUnavailable, Rejected (a cursor that is none)."""
    rows = await pool.fetch(_listing(wanted), *_arguments(wanted, wanted.limit + 1))
    letters = [_letter(row) for row in rows[: wanted.limit]]
    if len(rows) <= wanted.limit or not letters:
        return Page(letters)
    return Page(letters, cursor_of(_Position(letters[-1].created_at, letters[-1].id)))


async def count(pool: Pool, wanted: DeadLetterFilter, *, at_most: int) -> int:
    """Return how many there are, this many at most. Raises: StoreUnavailable, Rejected."""
    statement = _COUNTS[_listing(wanted)]
    counted: int = await pool.fetch_value(statement, *_arguments(wanted, at_most))
    return counted


async def read(pool: Pool, ids: Sequence[str]) -> list[WholeLetter]:
    """Return those of the messages that are dead. Raises: StoreUnavailable."""
    async with pool.connection() as connection:
        return await _whole_letters(connection, _READ, ids)


async def lock(connection: Connection, ids: Sequence[str]) -> list[WholeLetter]:
    """Lock those of the messages that are dead and nobody else is replaying; the locks last as long as the
    transaction. Raises: what the driver raises."""
    return await _whole_letters(connection, _LOCK, ids)


async def restart(connection: Connection, envelopes: Sequence[Envelope]) -> None:
    """Make the rows of these messages what their next round begins with. Raises: what the driver raises."""
    if not envelopes:
        return
    await connection.execute(
        _RESTART,
        [envelope.id for envelope in envelopes],
        [envelope.created_at for envelope in envelopes],
        [envelope.round for envelope in envelopes],
        [envelope.to_agent_id for envelope in envelopes],
        [envelope.expires_at for envelope in envelopes],
    )


async def _whole_letters(connection: Connection, statement: str, ids: Sequence[str]) -> list[WholeLetter]:
    left = set(ids)
    letters: list[WholeLetter] = []
    for window in (made_within(left), EVER):
        if not left:
            break
        found = [_whole(row) for row in await connection.fetch(statement, list(left), *window)]
        letters += found
        left -= {one.letter.id for one in found}
    return letters


def _listing(wanted: DeadLetterFilter) -> str:
    if wanted.to_agent_id is not None:
        return _RECEIVED
    if wanted.from_agent_id is not None:
        return _SENT
    return _ALL if wanted.agent_id is None else _OF_AGENT


def _arguments(wanted: DeadLetterFilter, limit: int) -> tuple[object, ...]:
    """Return $1..$9 of the listings."""
    if wanted.cursor is not None:
        start = position_of(wanted.cursor, _Position)
    else:
        start = _START if wanted.until is None else _Position(wanted.until, str(UUID(int=0)))
    return (
        wanted.agent_id,
        wanted.since or datetime.min.replace(tzinfo=UTC),
        wanted.reason,
        start.created_at,
        start.id,
        limit,
        wanted.from_agent_id,
        wanted.to_agent_id,
        wanted.message_type,
    )


def _letter(row: asyncpg.Record) -> DeadLetter:
    view = view_of(row)
    return DeadLetter(**{name: getattr(view, name) for name in view.__struct_fields__}, round=row["round"])


def _whole(row: asyncpg.Record) -> WholeLetter:
    requirements = row["requirements"]
    return WholeLetter(
        _letter(row), None if requirements is None else _requirements.decode(requirements), row["chosen"]
    )
