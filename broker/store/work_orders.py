"""Work orders as they are read: one, its history, an agent's list, how many an agent works on.

Changes are made in `broker.store.work_order_changes`, offers in `broker.store.work_order_offers`.
"""

from decimal import Decimal
from typing import Final

import asyncpg
from msgspec import Raw, Struct

from broker.core.budget import plain
from broker.core.work_orders import Lease, Order, Standing, may_see
from broker.store.page import cursor_of, not_ours, position_of
from broker.store.pool import Pool
from broker.store.statements import load
from schema.ids import is_id
from schema.limits import PAGE_ROWS_DEFAULT
from schema.times import from_ms, to_ms
from schema.work_order import AgentName, OrderStatus, Party, WorkOrderEvent, WorkOrderView

_GET: Final = load("work_order_get")
_EVENTS: Final = load("work_order_events")
_ACTIVE: Final = load("work_orders_active")
_LISTS: Final = {
    Party.WORKER: (load("work_orders_of_worker"), load("work_orders_of_worker_count")),
    Party.REQUESTER: (load("work_orders_of_requester"), load("work_orders_of_requester_count")),
}
_OVERDUE: Final = load("work_orders_overdue")
_ORPHANED: Final = load("work_orders_orphaned")
_DELETE_FINISHED: Final = load("work_orders_delete_finished")
_ALL_STATUSES: Final = [status.value for status in OrderStatus]
_LAST_ID: Final = "ffffffff-ffff-ffff-ffff-ffffffffffff"


class OrderFilter(Struct, kw_only=True, frozen=True):
    """What to list: an agent's orders on one side. `limit` is the caller's to bound."""

    agent_id: str
    role: Party
    status: OrderStatus | None = None
    limit: int = PAGE_ROWS_DEFAULT
    cursor: str | None = None


class OrderPage(Struct):
    """A page, newest first, how many there are in all, and the cursor to those behind."""

    items: list[WorkOrderView]
    total: int
    cursor: str | None


class Found(Struct, frozen=True):
    """An order as shown, and whether the agent that asked may see it."""

    view: WorkOrderView
    visible: bool


async def find(pool: Pool, order_id: str, agent_id: str | None = None) -> Found | None:
    """Return an order, and what an agent may see of it. None when there is none. Raises: StoreUnavailable."""
    row = await pool.fetch_row(_GET, order_id, agent_id)
    if row is None:
        return None
    order, now_ms = order_of(row), to_ms(row["now"])
    return Found(view_of(row), may_see(order, standing_of(row, order, agent_id), now_ms))


async def history(pool: Pool, order_id: str) -> list[WorkOrderEvent]:
    """Return everything that happened to an order, oldest first. Raises: StoreUnavailable."""
    return [_event(row) for row in await pool.fetch(_EVENTS, order_id)]


async def list_page(pool: Pool, wanted: OrderFilter) -> OrderPage:
    """Return a page of an agent's orders; a worker's includes those it is offered and may take.

    Raises: StoreUnavailable, Rejected (a cursor that is none).
    """
    before = _LAST_ID if wanted.cursor is None else position_of(wanted.cursor, str)
    if not is_id(before):
        raise not_ours()
    statuses = _ALL_STATUSES if wanted.status is None else [wanted.status.value]
    listing, counting = _LISTS[wanted.role]
    async with pool.connection() as connection:
        total = await connection.fetchval(counting, wanted.agent_id, statuses)
        rows = await connection.fetch(listing, wanted.agent_id, statuses, before, wanted.limit + 1)
    views = [view_of(row) for row in rows[: wanted.limit]]
    more = len(rows) > wanted.limit and bool(views)
    return OrderPage(views, total, cursor_of(views[-1].work_order_id) if more else None)


async def active_jobs(pool: Pool, agent_id: str) -> int:
    """Return how many orders the agent has accepted and not finished. Raises: StoreUnavailable."""
    return int(await pool.fetch_value(_ACTIVE, agent_id))


async def overdue(pool: Pool, limit: int) -> list[str]:
    """Return ids of unfinished orders whose deadline has passed. Raises: StoreUnavailable."""
    return [str(row["id"]) for row in await pool.fetch(_OVERDUE, limit)]


async def orphaned(pool: Pool, limit: int) -> list[str]:
    """Return ids of unfinished orders that lack a side: an agent that left. Raises: StoreUnavailable."""
    return [str(row["id"]) for row in await pool.fetch(_ORPHANED, limit)]


async def delete_finished(pool: Pool, before_ms: int, limit: int) -> int:
    """Delete orders that ended before a moment, with all that belongs to them; return how many.

    Raises: StoreUnavailable.
    """
    return int(await pool.fetch_value(_DELETE_FINISHED, from_ms(before_ms), limit))


# --- rows -------------------------------------------------------------------------------------------


def order_of(row: asyncpg.Record) -> Order:
    """Return what decisions about the order of this row depend on."""
    lease = None
    if row["lease_token"] is not None:
        until_ms = to_ms(row["lease_until"])
        lease = Lease(row["lease_number"], row["lease_token"], str(row["worker_id"]), until_ms)
    return Order(
        status=OrderStatus(row["status"]),
        is_open=row["is_open"],
        requester_id=str(row["requester_id"]),
        worker_id=_text(row["worker_id"]),
        deadline_ms=None if row["deadline_at"] is None else to_ms(row["deadline_at"]),
        lease=lease,
    )


def standing_of(row: asyncpg.Record, order: Order, agent_id: str | None) -> Standing:
    """Return what an agent is to the order of a row that was read for it."""
    if agent_id is not None and agent_id == order.requester_id:
        return Standing.REQUESTER
    if agent_id is not None and agent_id == order.worker_id:
        return Standing.WORKER
    if row["declined"]:
        return Standing.DECLINED
    return Standing.OFFERED if row["offered"] else Standing.STRANGER


def view_of(row: asyncpg.Record) -> WorkOrderView:
    """Return the order of a row that names its sides."""
    worker_id = _text(row["worker_id"])
    accepted = row["status"] == OrderStatus.ACCEPTED.value
    return WorkOrderView(
        work_order_id=str(row["id"]),
        status=row["status"],
        from_agent=AgentName(id=str(row["requester_id"]), name=row["requester_name"]),
        to_agent=None if worker_id is None else AgentName(id=worker_id, name=row["worker_name"]),
        title=row["title"],
        description=row["description"],
        requirements=Raw(row["requirements"].encode()),
        capabilities=list(row["capabilities"]),
        budget_usd=budget_of(row["budget_usd"]),
        deadline_at=row["deadline_at"],
        estimated_completion=row["estimated_completion"],
        percent=row["percent"],
        result=Raw(b"null" if row["result"] is None else row["result"].encode()),
        status_reason=row["status_reason"],
        open=row["is_open"],
        lease_until=row["lease_until"] if accepted else None,
        created_at=row["created_at"],
        updated_at=row["updated_at"],
        accepted_at=row["accepted_at"],
        finished_at=row["finished_at"],
    )


def budget_of(stored: Decimal | None) -> Decimal | None:
    """Return a budget as it is shown: without the zeros its column pads it with."""
    return None if stored is None else plain(stored)


def _event(row: asyncpg.Record) -> WorkOrderEvent:
    actor_id = _text(row["actor_id"])
    return WorkOrderEvent(
        seq=row["seq"],
        at=row["at"],
        action=row["action"],
        by=row["by_party"],
        actor=None if actor_id is None else AgentName(id=actor_id, name=row["actor_name"]),
        from_status=row["from_status"],
        to_status=row["to_status"],
        detail=Raw(row["detail"].encode()),
    )


def _text(value: object) -> str | None:
    return None if value is None else str(value)
