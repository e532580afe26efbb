"""Changes of work orders: lock the row, decide, write, note, tell; all in one transaction.

What may be done is decided by `broker.core.work_orders`, on the locked row and by the server's clock, so
gateways whose clocks differ agree on leases. The UPDATE is guarded by the event the decision was based on.
The messages about a change go into the outbox with it and are returned, for the caller to publish.

Locks are taken in one order: the work order, then the agent that accepts it.
"""

from datetime import datetime
from decimal import Decimal
from secrets import token_urlsafe
from typing import Final

import asyncpg
from msgspec import Struct, structs

from broker.core.work_order_notices import Particulars, ends_offers, told
from broker.core.work_orders import (
    Asked,
    Change,
    Order,
    Refusal,
    Refused,
    Standing,
    decide,
    has_room,
    is_free,
    is_terminal,
)
from broker.store import outbox
from broker.store import work_order_log as log
from broker.store.pool import Connection, Pool
from broker.store.statements import load
from broker.store.work_order_messages import offers_of, updates_of
from broker.store.work_order_offers import next_offer_ms, offer
from broker.store.work_orders import order_of, standing_of, view_of
from broker.telemetry import metrics
from schema import limits
from schema.errors import (
    AgentMismatch,
    AtCapacity,
    BrokerError,
    Conflict,
    IllegalTransition,
    LeaseLost,
    NotFound,
    TooManyWorkOrders,
)
from schema.message import Envelope
from schema.times import from_ms, to_ms
from schema.work_order import Action, OrderStatus, Party, WorkOrderView

SECRET_BYTES: Final = 16

_INSERT: Final = load("work_order_insert")
_GET: Final = load("work_order_get")
_LOCK: Final = load("work_order_lock")
_CHANGE: Final = load("work_order_change")
_DECLINE: Final = load("work_order_decline")
_OFFERS_END: Final = load("work_order_offers_end")
_OFFERED: Final = load("work_order_offered")
_CAPACITY: Final = load("work_orders_capacity")
_ACTIVE_BUT: Final = load("work_orders_active_but")
_UNFINISHED: Final = load("work_orders_unfinished")
_TO_OFFER: Final = load("work_orders_to_offer")

_REFUSALS: Final[dict[Refused, type[BrokerError]]] = {
    Refused.NOT_YOURS: AgentMismatch,
    Refused.ILLEGAL: IllegalTransition,
    Refused.LEASE_LOST: LeaseLost,
}


class Draft(Struct, kw_only=True, frozen=True):
    """A checked work order that is to be made. Without a worker it is offered to who is capable."""

    id: str
    requester_id: str
    worker_id: str | None
    title: str
    description: str
    requirements: str
    capabilities: list[str]
    budget_usd: Decimal | None
    deadline_at: datetime | None


class Wish(Struct, kw_only=True, frozen=True):
    """What an agent (None: the broker) wants done to an order. `lease_ms`: of a lease this may give."""

    action: Action
    agent_id: str | None = None
    token: str | None = None
    lease_ms: int = 0
    said: Particulars = Particulars()


class Changed(Struct, frozen=True):
    """An order after a change, and the messages that tell of it: committed, and to be published now.

    `lease`: the token that accepting gave. `offered_to`: agents a new open order was offered to.
    """

    view: WorkOrderView
    envelopes: list[Envelope]
    lease: str | None = None
    offered_to: int = 0


async def create(pool: Pool, draft: Draft) -> Changed:
    """Make a work order, and offer it. One there is under this id comes back as it is, without messages.

    Raises: TooManyWorkOrders, StoreUnavailable, DataFault.
    """
    async with pool.transaction() as connection:
        row = await connection.fetchrow(_INSERT, *structs.astuple(draft))
        if row is None:
            return Changed(await _view(connection, draft.id), [])
        await _check_unfinished(connection, draft.requester_id)
        now_ms = to_ms(row["created_at"])
        event = log.Event(
            seq=row["last_event"],
            at_ms=now_ms,
            action=Action.CREATE,
            by=Party.REQUESTER,
            actor_id=draft.requester_id,
            from_status=None,
            to_status=OrderStatus.PENDING,
            detail={},
        )
        await log.append(connection, draft.id, event)
        if draft.worker_id is None:
            envelopes = await _offer(connection, row, now_ms)
        else:
            envelopes = offers_of(row, [draft.worker_id], now_ms=now_ms)
        await outbox.add(connection, *envelopes)
        view = await _view(connection, draft.id)
    _count(Action.CREATE, "done")
    return Changed(view, envelopes, offered_to=len(envelopes))


async def _check_unfinished(connection: Connection, requester_id: str) -> None:
    """Raises: TooManyWorkOrders, with the one being made. Of several made at once a few may be too many."""
    bound = limits.WORK_ORDERS_UNFINISHED_MAX
    if await connection.fetchval(_UNFINISHED, requester_id, bound + 1) > bound:
        raise TooManyWorkOrders(f"the agent has {bound} work orders that are not finished")


async def change(pool: Pool, order_id: str, wish: Wish) -> Changed:
    """Do what is wished, if it may be done. What is refused for its lease is noted in the history.

    Raises: NotFound, also for a stranger to the order; AgentMismatch, IllegalTransition, LeaseLost,
    AtCapacity; Conflict; StoreUnavailable, DataFault.
    """
    try:
        outcome = await _in_transaction(pool, order_id, wish)
        if isinstance(outcome, Refusal):
            raise _REFUSALS[outcome.reason](outcome.message)
    except (NotFound, AgentMismatch, Conflict) as error:
        _count(wish.action, error.code)
        raise
    _count(wish.action, "done")
    return outcome


async def offer_next(pool: Pool) -> list[Envelope] | None:
    """Offer the open order whose turn it is to who has become able to take it; return the messages.

    None: it is no order's turn. Raises: StoreUnavailable, DataFault, Conflict.
    """
    async with pool.transaction() as connection:
        row = await connection.fetchrow(_TO_OFFER)
        if row is None:
            return None
        envelopes = await _offer(connection, row, to_ms(row["now"]))
        await outbox.add(connection, *envelopes)
    if envelopes:
        _count(Action.OFFER, "done")
    return envelopes


# --- inside the transaction -------------------------------------------------------------------------


async def _in_transaction(pool: Pool, order_id: str, wish: Wish) -> Changed | Refusal:
    async with pool.transaction() as connection:
        row = await connection.fetchrow(_LOCK, order_id, wish.agent_id)
        if row is None:
            raise NotFound("no such work order")
        before, now_ms = order_of(row), to_ms(row["now"])
        standing = standing_of(row, before, wish.agent_id)
        if wish.agent_id is not None and standing is Standing.STRANGER:
            raise NotFound("no such work order")
        asked = _asked(wish, standing)
        decided = decide(before, asked, now_ms)
        if isinstance(decided, Change):
            return await _carry_out(connection, row, wish, decided, now_ms=now_ms)
        if decided.reason is Refused.LEASE_LOST:
            detail = log.detail_of_refusal(asked, decided.reason)
            await log.note(
                connection,
                row,
                Action.REFUSED,
                by=Party.WORKER,
                actor_id=wish.agent_id,
                detail=detail,
                now_ms=now_ms,
            )
        return decided  # as a value: raised in here it would undo the note


def _asked(wish: Wish, standing: Standing) -> Asked:
    return Asked(
        action=wish.action,
        standing=standing,
        agent_id=wish.agent_id,
        token=wish.token,
        secret=token_urlsafe(SECRET_BYTES),
        lease_ms=wish.lease_ms,
    )


async def _carry_out(
    connection: Connection, row: asyncpg.Record, wish: Wish, change: Change, *, now_ms: int
) -> Changed:
    order_id = str(row["id"])
    if change.action is Action.ACCEPT:
        await _check_capacity(connection, order_id, str(wish.agent_id))
    await _write(connection, row, wish, change, now_ms=now_ms)
    offered = await _settle_offers(connection, row, wish, change, now_ms=now_ms)
    telling = told(order_of(row), change, wish.agent_id, offered)
    envelopes = updates_of(row, change, wish.said, telling, now_ms=now_ms)
    await outbox.add(connection, *envelopes)
    given = change.after.lease if change.action is Action.ACCEPT else None
    return Changed(await _view(connection, order_id), envelopes, None if given is None else given.token)


async def _check_capacity(connection: Connection, order_id: str, agent_id: str) -> None:
    """Raises: AtCapacity. The agent's row stays locked, so that of two acceptances one counts the other."""
    concurrent_max = await connection.fetchval(_CAPACITY, agent_id)
    active = await connection.fetchval(_ACTIVE_BUT, agent_id, order_id)
    if concurrent_max is not None and not has_room(active, concurrent_max):
        raise AtCapacity(f"the agent has {active} orders in work, and can do {concurrent_max} at once")


async def _write(
    connection: Connection, row: asyncpg.Record, wish: Wish, change: Change, *, now_ms: int
) -> None:
    """Write a change and note it. Raises: Conflict where the row is not what the decision was based on."""
    after, said, last, lease = change.after, wish.said, row["last_event"], change.after.lease
    noted = log.is_noted(change.action, last)
    found = await connection.fetchval(
        _CHANGE,
        row["id"],
        last,
        after.status.value,
        after.worker_id,
        row["lease_number"] if lease is None else lease.number,
        None if lease is None else lease.token,
        None if lease is None else from_ms(lease.until_ms),
        from_ms(now_ms),
        said.estimated,
        said.percent,
        None if change.action is Action.DECLINE else said.reason,
        None if said.result is None else bytes(said.result).decode(),
        _offer_at(row, after),
        change.action is Action.ACCEPT,
        int(noted),
    )
    if found is None:
        raise Conflict("somebody else changed this work order at the same time; read it again")
    if noted:
        event = log.Event(
            seq=last + 1,
            at_ms=now_ms,
            action=change.action,
            by=change.by,
            actor_id=wish.agent_id,
            from_status=OrderStatus(row["status"]),
            to_status=after.status,
            detail=log.detail_of(change, said),
        )
        await log.append(connection, str(row["id"]), event)


def _offer_at(row: asyncpg.Record, after: Order) -> datetime | None:
    """Return when to offer an open order again: an accepted one once its lease has lapsed."""
    if not after.is_open or is_terminal(after.status):
        return None
    if after.lease is not None and after.lease.until_ms > to_ms(row["now"]):
        return from_ms(after.lease.until_ms)
    offer_at: datetime | None = row["offer_at"]
    return offer_at


async def _settle_offers(
    connection: Connection, row: asyncpg.Record, wish: Wish, change: Change, *, now_ms: int
) -> list[str]:
    """Bring the offers of an open order in line with a change; return the agents whose offer this ended."""
    if not change.after.is_open:
        return []
    if change.action is Action.DECLINE:
        await connection.execute(_DECLINE, row["id"], wish.agent_id, from_ms(now_ms))
    if not ends_offers(change):
        return []
    return [str(one["agent_id"]) for one in await connection.fetch(_OFFERS_END, row["id"])]


async def _offer(connection: Connection, row: asyncpg.Record, now_ms: int) -> list[Envelope]:
    """Offer the order of this (locked) row to more agents, if it can be taken, and say when to look again."""
    order = order_of(row)
    if not is_free(order, now_ms):
        # Overdue, which ends it, or its lease has been renewed since it was to be offered.
        renewed = order.lease is not None and order.lease.until_ms > now_ms
        await connection.execute(_OFFERED, row["id"], row["lease_until"] if renewed else None)
        return []
    since_ms = to_ms(row["created_at"]) if order.lease is None else order.lease.until_ms
    await connection.execute(_OFFERED, row["id"], from_ms(next_offer_ms(since_ms, now_ms)))
    agents = await offer(connection, str(row["id"]), round_=row["lease_number"], now_ms=now_ms)
    if agents:
        detail = {"agents": agents}
        await log.note(
            connection, row, Action.OFFER, by=Party.BROKER, actor_id=None, detail=detail, now_ms=now_ms
        )
    return offers_of(row, agents, now_ms=now_ms)


async def _view(connection: Connection, order_id: str) -> WorkOrderView:
    row = await connection.fetchrow(_GET, order_id, None)
    assert row is not None
    return view_of(row)


def _count(action: Action, outcome: str) -> None:
    metrics.WORK_ORDERS.child(action=action.value, outcome=outcome).inc()
