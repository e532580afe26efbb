"""An agent's inbox: a page of it, and how much there is.

What is pending lies in indexes of its own (migration 0007), so a page of the largest inbox costs as much as
one of the smallest: a look into each day, and the rows. What has another status is history, read like any
other list of messages.

A message that has expired and is not recorded as such yet waits for nobody: it is neither shown as pending
nor counted.
"""

from datetime import datetime
from typing import Final

from msgspec import Struct

from broker.store import messages
from broker.store.messages import START, MessageFilter, Position, page_of
from broker.store.page import Page, position_of
from broker.store.pool import Pool
from broker.store.statements import load
from schema.limits import INBOX_COUNTED_MAX, PAGE_ROWS_DEFAULT
from schema.message import MessageView, Status
from schema.times import from_ms

_PENDING: Final = load("inbox_pending")
_PENDING_OF_TYPE: Final = load("inbox_pending_of_type")
_COUNT_PENDING: Final = load("inbox_count_pending")
_COUNT_PENDING_OF_TYPE: Final = load("inbox_count_pending_of_type")
_COUNT: Final = load("inbox_count")
_COUNT_OF_TYPE: Final = load("inbox_count_of_type")
_NAMES: Final = load("agent_names")


class InboxFilter(Struct, kw_only=True, frozen=True):
    """Whose inbox (by UUID), and what of it. `status` None: every one. `limit` is the caller's to bound."""

    agent_id: str
    status: Status | None = Status.PENDING
    message_type: str | None = None
    limit: int = PAGE_ROWS_DEFAULT
    cursor: str | None = None


class Total(Struct, frozen=True):
    """How many messages match; `is_lower_bound`: at least so many, counting stopped there."""

    count: int
    is_lower_bound: bool = False


async def page(pool: Pool, wanted: InboxFilter, *, now_ms: int) -> Page[MessageView]:
    """Return a page ordered by priority, time of creation and id.

    Raises: StoreUnavailable, Rejected (a cursor that is none).
    """
    if wanted.status is Status.PENDING:
        return await _pending_page(pool, wanted, from_ms(now_ms))
    listed = await messages.list_page(
        pool,
        MessageFilter(
            to_agent_id=wanted.agent_id,
            status=wanted.status,
            message_type=wanted.message_type,
            limit=wanted.limit,
            cursor=wanted.cursor,
        ),
    )
    now = from_ms(now_ms)
    for view in listed.items:
        if view.status == Status.PENDING.value and view.expires_at is not None and view.expires_at <= now:
            view.status = Status.EXPIRED.value
    return listed


async def total(
    pool: Pool, wanted: InboxFilter, *, now_ms: int, counted_max: int = INBOX_COUNTED_MAX
) -> Total:
    """Return how many messages match, whatever the page. Beyond the bound it stops counting.

    Raises: StoreUnavailable.
    """
    more_than_all = counted_max + 1
    if wanted.status is Status.PENDING:
        count = await _pending_count(pool, wanted, from_ms(now_ms), more_than_all)
        return Total(min(count, counted_max), is_lower_bound=count > counted_max)
    statuses = [status.value for status in (Status if wanted.status is None else (wanted.status,))]
    if wanted.message_type is None:
        count = await pool.fetch_value(_COUNT, wanted.agent_id, statuses, more_than_all)
        return Total(min(count, counted_max), is_lower_bound=count > counted_max)
    row = await pool.fetch_row(_COUNT_OF_TYPE, wanted.agent_id, statuses, more_than_all, wanted.message_type)
    assert row is not None
    # No index has the types of what is history, so only so much is looked at.
    return Total(min(row["total"], counted_max), is_lower_bound=row["looked_at"] > counted_max)


async def sender_names(pool: Pool, ids: list[str]) -> dict[str, str]:
    """Return the names of those of the agents that are registered, or were. Raises: StoreUnavailable."""
    return {str(row["id"]): row["name"] for row in await pool.fetch(_NAMES, ids)}


async def _pending_page(pool: Pool, wanted: InboxFilter, now: datetime) -> Page[MessageView]:
    start = START if wanted.cursor is None else position_of(wanted.cursor, Position)
    place = (start.priority, start.created_at, start.id, wanted.limit + 1)
    if wanted.message_type is None:
        rows = await pool.fetch(_PENDING, wanted.agent_id, now, *place)
    else:
        rows = await pool.fetch(_PENDING_OF_TYPE, wanted.agent_id, now, *place, wanted.message_type)
    return page_of(rows, wanted.limit)


async def _pending_count(pool: Pool, wanted: InboxFilter, now: datetime, at_most: int) -> int:
    if wanted.message_type is None:
        count: int = await pool.fetch_value(_COUNT_PENDING, wanted.agent_id, now, at_most)
    else:
        count = await pool.fetch_value(
            _COUNT_PENDING_OF_TYPE, wanted.agent_id, now, at_most, wanted.message_type
        )
    return count
