"""Writes the history of work orders. Append-only: a trigger refuses everything else."""

from typing import Any, Final

import asyncpg
from msgspec import Struct

from broker.core.work_order_notices import Particulars
from broker.core.work_orders import Asked, Change, Refused
from broker.store.pool import Connection
from broker.store.statements import load
from schema.codec import encode
from schema.errors import Conflict
from schema.limits import WORK_ORDER_EVENTS_MAX
from schema.times import from_ms
from schema.work_order import Action, OrderStatus, Party

_INSERT: Final = load("work_order_event_insert")
_NOTED: Final = load("work_order_noted")
_ALWAYS: Final = frozenset(Action) - {Action.PROGRESS, Action.REFUSED, Action.DECLINE, Action.OFFER}


class Event(Struct, kw_only=True, frozen=True):
    """Something that happened to an order. `detail`: what is worth knowing about it."""

    seq: int
    at_ms: int
    action: Action
    by: Party
    actor_id: str | None
    from_status: OrderStatus | None
    to_status: OrderStatus
    detail: dict[str, Any]  # JSON


def is_noted(action: Action, events: int) -> bool:
    """Tell whether a history of so many events takes another of this kind."""
    return action in _ALWAYS or events < WORK_ORDER_EVENTS_MAX


async def append(connection: Connection, order_id: str, event: Event) -> None:
    """Append an event whose number the order's row already counts."""
    await connection.execute(
        _INSERT,
        order_id,
        event.seq,
        from_ms(event.at_ms),
        event.actor_id,
        event.action.value,
        event.by.value,
        None if event.from_status is None else event.from_status.value,
        event.to_status.value,
        encode(event.detail).decode(),
    )


async def note(
    connection: Connection,
    row: asyncpg.Record,
    action: Action,
    *,
    by: Party,
    actor_id: str | None,
    detail: dict[str, Any],  # JSON
    now_ms: int,
) -> None:
    """Note something that leaves the order of this (locked) row as it is. Raises: Conflict."""
    if not is_noted(action, row["last_event"]):
        return
    if await connection.execute(_NOTED, row["id"], row["last_event"]) == "UPDATE 0":
        raise Conflict("somebody else changed this work order at the same time; read it again")
    status = OrderStatus(row["status"])
    event = Event(
        seq=row["last_event"] + 1,
        at_ms=now_ms,
        action=action,
        by=by,
        actor_id=actor_id,
        from_status=status,
        to_status=status,
        detail=detail,
    )
    await append(connection, str(row["id"]), event)


def detail_of(change: Change, said: Particulars) -> dict[str, Any]:  # JSON
    """Return what the history keeps of a change. A result stays in the order's row alone."""
    detail: dict[str, Any] = {"reason": said.reason, "note": said.note, "percent": said.percent}
    detail["estimated_completion"] = said.estimated
    if change.action in (Action.ACCEPT, Action.PROGRESS) and change.after.lease is not None:
        detail["lease_number"] = change.after.lease.number
        detail["lease_until"] = from_ms(change.after.lease.until_ms)
    return {name: value for name, value in detail.items() if value is not None}


def detail_of_refusal(asked: Asked, reason: Refused) -> dict[str, Any]:  # JSON
    """Return what the history keeps of something refused: of the token only its number."""
    detail: dict[str, Any] = {"action": asked.action.value, "reason": reason.value}
    if asked.token is not None:
        number = asked.token.partition(".")[0]
        detail["lease_number"] = int(number) if number.isdecimal() and len(number) < 10 else None
    return detail
