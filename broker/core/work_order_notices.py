"""Who is told what when something happens to a work order. Pure.

The other side hears of every change, both of what the broker does by itself; agents with a standing offer
hear when it is gone. A note comes from the other side of the order, so that an agent that only hears from
certain senders still hears from those it works with; `by` says who acted.
"""

from collections.abc import Collection
from datetime import datetime

from msgspec import Raw, Struct

from broker.core.work_orders import Change, Order
from schema.work_order import Action, OrderStatus

_SILENT = frozenset({Action.DECLINE})
"""Only noted in the history: with 64 agents declining an offer, nothing has changed yet for the requester."""


class Particulars(Struct, kw_only=True, frozen=True):
    """What whoever acted said about it. `result` is JSON; `estimated`: when it will be done."""

    reason: str | None = None
    note: str | None = None
    percent: int | None = None
    result: Raw | None = None
    estimated: datetime | None = None


class Told(Struct, frozen=True):
    """One agent to tell, and from whom it comes."""

    to: str
    sender: str | None


def told(before: Order, change: Change, actor: str | None, offered: Collection[str]) -> list[Told]:
    """Return whom to tell of a change. `offered`: the agents whose offer stood until now."""
    if change.action in _SILENT:
        return []
    after = change.after
    concerned = [after.requester_id, after.worker_id, before.worker_id]
    if change.action is not Action.PROGRESS:
        concerned += sorted(offered)
    others = dict.fromkeys(agent for agent in concerned if agent is not None and agent != actor)
    return [Told(agent, _sender(after, agent)) for agent in others]


def ends_offers(change: Change) -> bool:
    """Tell whether agents that were offered the order can no longer take it after this."""
    taken = change.action in (Action.ACCEPT, Action.PROGRESS)
    return taken or change.after.status not in (OrderStatus.PENDING, OrderStatus.ACCEPTED)


def _sender(after: Order, to: str) -> str | None:
    return after.worker_id if to == after.requester_id else after.requester_id
