"""The life of a work order: who may do what, when, and who holds it.

Theory of operation. An order is `pending` until a worker accepts it, and ends `completed`, `failed`,
`rejected`, `expired` or `cancelled`:

    pending  --accept--> accepted --complete--> completed
       |                  | |  ^ --fail------> failed
       |                  | |  '-- progress; accept again once the lease has lapsed
       |--reject--> rejected   (directed; of an open order an agent only declines its own offer)
       |--cancel, expire--> cancelled, expired <-- the same from accepted

*Directed* orders name their worker. *Open* ones are offered to capable agents and belong to the first that
accepts. Accepting gives a *lease*: a token with a fencing number that grows with every lease of the order,
and a time until which nobody else can have it. Progress renews the lease. When it lapses nothing changes by
itself: the worker may still report under its token. But the order may be accepted again, a directed one by
its worker (which may have lost its token in a restart), an open one by any agent it was offered to; that
gives the next number, and from then on the older token proves nothing. A worker that presents none is
believed while only one lease was ever given, because then there is nothing to mistake it for.

From its deadline on an order can only expire or be cancelled, however late the clock's keeper comes round.

`decide` is a pure function: it looks at the order, and says what it becomes or why not. The store runs it
inside the transaction that has locked the row.

Invariants: a terminal status is never left; at no time do two unlapsed leases exist; fencing numbers only
grow; what is refused changes nothing.
"""

from enum import Enum
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from schema.work_order import Action, OrderStatus, Party

TRANSITIONS: Final[dict[OrderStatus, dict[Action, OrderStatus]]] = {
    OrderStatus.PENDING: {
        Action.ACCEPT: OrderStatus.ACCEPTED,
        Action.REJECT: OrderStatus.REJECTED,
        Action.DECLINE: OrderStatus.PENDING,
        Action.CANCEL: OrderStatus.CANCELLED,
        Action.EXPIRE: OrderStatus.EXPIRED,
    },
    OrderStatus.ACCEPTED: {
        Action.ACCEPT: OrderStatus.ACCEPTED,  # only once the lease has lapsed
        Action.DECLINE: OrderStatus.ACCEPTED,  # likewise, when it is offered again
        Action.PROGRESS: OrderStatus.ACCEPTED,
        Action.COMPLETE: OrderStatus.COMPLETED,
        Action.FAIL: OrderStatus.FAILED,
        Action.CANCEL: OrderStatus.CANCELLED,
        Action.EXPIRE: OrderStatus.EXPIRED,
    },
    OrderStatus.COMPLETED: {},
    OrderStatus.FAILED: {},
    OrderStatus.REJECTED: {},
    OrderStatus.EXPIRED: {},
    OrderStatus.CANCELLED: {},
}

_BY_WORKER: Final = frozenset(
    {Action.ACCEPT, Action.REJECT, Action.DECLINE, Action.PROGRESS, Action.COMPLETE, Action.FAIL}
)
DOES: Final[dict[Party, frozenset[Action]]] = {
    Party.WORKER: _BY_WORKER,
    Party.REQUESTER: frozenset({Action.CANCEL}),
    Party.BROKER: frozenset({Action.EXPIRE, Action.CANCEL}),  # cancel: when a side has left
}
UNDER_LEASE: Final = frozenset({Action.PROGRESS, Action.COMPLETE, Action.FAIL})
"""What needs the current lease."""
_OF_TAKERS: Final = frozenset({Action.ACCEPT, Action.DECLINE})
"""What needs the order to be free: pending, or its lease lapsed."""


class Standing(Enum):
    """What an agent is to an order. OFFERED: it may take it. DECLINED: it had an offer and gave it back."""

    STRANGER = "stranger"
    REQUESTER = "requester"
    WORKER = "worker"
    OFFERED = "offered"
    DECLINED = "declined"


class Lease(Struct, frozen=True):
    """Who has the order, and until when nobody else can."""

    number: int
    token: str
    holder: str
    until_ms: int


class Order(Struct, frozen=True, kw_only=True):
    """What decisions depend on. `worker_id` of an open order: who accepted last."""

    status: OrderStatus
    is_open: bool
    requester_id: str
    worker_id: str | None = None
    deadline_ms: int | None = None
    lease: Lease | None = None


class Asked(Struct, frozen=True, kw_only=True):
    """What somebody wants done. `secret` and `lease_ms`: the random part and the length of a lease that this
    may give. `agent_id` None: the broker."""

    action: Action
    standing: Standing = Standing.STRANGER
    agent_id: str | None = None
    token: str | None = None
    secret: str = ""
    lease_ms: int = 0


class Refused(Enum):
    """Why nothing changes."""

    NOT_YOURS = "not_yours"
    ILLEGAL = "illegal_transition"
    LEASE_LOST = "lease_lost"


class Refusal(Struct, frozen=True):
    """Nothing changes; `message` is one sentence for people."""

    reason: Refused
    message: str


class Change(Struct, frozen=True):
    """What was done (a reject of an open order is a DECLINE), by which side, and the order after it."""

    action: Action
    by: Party
    after: Order


def decide(order: Order, asked: Asked, now_ms: int) -> Change | Refusal:
    """Return what the order becomes, or why nothing changes."""
    action = Action.DECLINE if order.is_open and asked.action is Action.REJECT else asked.action
    party = party_of(asked.standing, asked.agent_id)
    if party is None or action not in DOES[party]:
        return Refusal(Refused.NOT_YOURS, f"it is not for this agent to {_WORDS[action]} this work order")
    refusal = _lease_refusal(order, asked) if action in UNDER_LEASE else None
    refusal = refusal or _state_refusal(order, action, asked, now_ms)
    if refusal is not None:
        return refusal
    return Change(action, party, _after(order, action, asked, now_ms))


def party_of(standing: Standing, agent_id: str | None) -> Party | None:
    """Return the side on which somebody acts; None for a stranger."""
    if agent_id is None:
        return Party.BROKER
    if standing is Standing.REQUESTER:
        return Party.REQUESTER
    return None if standing is Standing.STRANGER else Party.WORKER


def is_terminal(status: OrderStatus) -> bool:
    """Tell whether nothing follows this status."""
    return not TRANSITIONS[status]


def is_free(order: Order, now_ms: int) -> bool:
    """Tell whether the order can be accepted: pending, or its lease has lapsed; and not overdue."""
    if is_terminal(order.status) or is_overdue(order, now_ms):
        return False
    return order.lease is None or order.lease.until_ms <= now_ms


def is_overdue(order: Order, now_ms: int) -> bool:
    """Tell whether the deadline has passed."""
    return order.deadline_ms is not None and order.deadline_ms <= now_ms


def may_see(order: Order, standing: Standing, now_ms: int) -> bool:
    """Tell whether an agent may see the order: its two sides always, others while they may take it."""
    if standing is Standing.OFFERED:
        return is_free(order, now_ms)
    return standing in (Standing.REQUESTER, Standing.WORKER)


def has_room(active: int, concurrent_max: int) -> bool:
    """Tell whether an agent with this many orders in work may accept another."""
    return active < concurrent_max


def _lease_refusal(order: Order, asked: Asked) -> Refusal | None:
    """Refuse what comes under another lease than the current one. Without any lease it is not about that."""
    lease = order.lease
    if lease is None:
        return None
    if asked.token is None:
        holds = lease.number == 1
    else:
        holds = asked.token == lease.token
    if holds and lease.holder == asked.agent_id:
        return None
    return Refusal(Refused.LEASE_LOST, f"lease {lease.number} is the current one, and this is not it")


def _state_refusal(order: Order, action: Action, asked: Asked, now_ms: int) -> Refusal | None:
    if action not in TRANSITIONS[order.status]:
        return _illegal(f"a work order that is {order.status.value} cannot be {_DONE[action]}")
    overdue = is_overdue(order, now_ms)
    if action is Action.EXPIRE and not overdue:
        return _illegal("its deadline has not passed")
    if overdue and action not in (Action.EXPIRE, Action.CANCEL):
        return _illegal("its deadline has passed")
    if action in _OF_TAKERS and not is_free(order, now_ms):
        return _illegal("it has been accepted already")
    if action in _OF_TAKERS and asked.standing is Standing.DECLINED:
        return _illegal("this agent has declined it")
    return None


def _after(order: Order, action: Action, asked: Asked, now_ms: int) -> Order:
    status = TRANSITIONS[order.status][action]
    if action is Action.ACCEPT:
        assert asked.agent_id is not None
        number = 1 if order.lease is None else order.lease.number + 1
        lease = Lease(number, f"{number}.{asked.secret}", asked.agent_id, now_ms + asked.lease_ms)
        return replace(order, status=status, worker_id=asked.agent_id, lease=lease)
    if action is Action.PROGRESS:
        assert order.lease is not None
        return replace(order, lease=replace(order.lease, until_ms=now_ms + asked.lease_ms))
    return replace(order, status=status)


def _illegal(message: str) -> Refusal:
    return Refusal(Refused.ILLEGAL, message)


_WORDS: Final = {
    Action.ACCEPT: "accept",
    Action.REJECT: "reject",
    Action.DECLINE: "decline",
    Action.PROGRESS: "report progress of",
    Action.COMPLETE: "complete",
    Action.FAIL: "fail",
    Action.CANCEL: "cancel",
    Action.EXPIRE: "expire",
}
_DONE: Final = {
    Action.ACCEPT: "accepted",
    Action.REJECT: "rejected",
    Action.DECLINE: "declined",
    Action.PROGRESS: "worked on",
    Action.COMPLETE: "completed",
    Action.FAIL: "failed",
    Action.CANCEL: "cancelled",
    Action.EXPIRE: "expired",
}
