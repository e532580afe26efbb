"""Work orders: states, what the HTTP edge takes and shows, and what the messages about them hold.

`budget_usd` is a decimal from the wire to the row and back: no float ever holds it.
"""

from datetime import datetime
from decimal import Decimal
from enum import Enum

from msgspec import UNSET, Raw, Struct, UnsetType, field

from schema.quick import quick


@quick
class OrderStatus(Enum):
    """Where a work order is in its life. See `broker.core.work_orders` for the transitions."""

    PENDING = "pending"
    ACCEPTED = "accepted"
    COMPLETED = "completed"
    FAILED = "failed"
    REJECTED = "rejected"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


@quick
class Party(Enum):
    """Who does something to a work order. WORKER: who has it, or is offered it. BROKER: by the clock."""

    WORKER = "worker"
    REQUESTER = "requester"
    BROKER = "broker"


@quick
class Action(Enum):
    """What is done to a work order, and what its history names.

    Asked for: ACCEPT to EXPIRE. Only noted: CREATE; OFFER (to capable agents); DECLINE (a reject of an open
    order); REFUSED (something asked for under a lease that was lost).
    """

    ACCEPT = "accept"
    REJECT = "reject"
    PROGRESS = "progress"
    COMPLETE = "complete"
    FAIL = "fail"
    CANCEL = "cancel"
    EXPIRE = "expire"
    CREATE = "create"
    OFFER = "offer"
    DECLINE = "decline"
    REFUSED = "refused"


# --- what comes in ----------------------------------------------------------------------------------


class WorkOrderRequest(Struct, kw_only=True):
    """Body of `POST /work-order`: to a named agent, or to whoever is capable and accepts first."""

    title: str
    to_agent_id: str | None = None
    capabilities: list[str] | None = None
    description: str = ""
    requirements: Raw = field(default_factory=lambda: Raw(b"{}"))
    budget_usd: Decimal | None = None
    deadline_at: datetime | None = None


class RespondRequest(Struct, kw_only=True):
    """Body of `POST /work-order/{id}/respond`. `action`: `accept` or `reject`."""

    action: str
    estimated_completion: datetime | None = None
    rejection_reason: str | None = None


class CompleteRequest(Struct, kw_only=True):
    """Body of `POST /work-order/{id}/complete`: a result (any JSON), or `failed` and why."""

    result: Raw = field(default_factory=lambda: Raw(b"null"))
    lease: str | None = None
    failed: bool = False
    reason: str | None = None


class ProgressRequest(Struct, kw_only=True):
    """Body of `POST /work-order/{id}/progress`."""

    lease: str | None = None
    note: str | None = None
    percent: int | None = None


class CancelRequest(Struct, kw_only=True):
    """Body of `POST /work-order/{id}/cancel`."""

    reason: str | None = None


# --- what is shown ----------------------------------------------------------------------------------


class AgentName(Struct, kw_only=True):
    """An agent as a work order names it; without a name once its record is gone."""

    id: str
    name: str | None


class WorkOrderView(Struct, kw_only=True):
    """A work order. `to_agent` is null while an open one has been accepted by nobody; `lease_until`: until
    when its worker has it to himself; `result` is JSON `null` where there is none."""

    work_order_id: str
    status: str
    from_agent: AgentName
    to_agent: AgentName | None
    title: str
    description: str
    requirements: Raw
    capabilities: list[str]
    budget_usd: Decimal | None
    deadline_at: datetime | None
    estimated_completion: datetime | None
    percent: int | None
    result: Raw
    status_reason: str | None
    open: bool
    lease_until: datetime | None
    created_at: datetime
    updated_at: datetime
    accepted_at: datetime | None
    finished_at: datetime | None


class WorkOrderReply(WorkOrderView, kw_only=True):
    """A work order after what was asked for. `lease`: on accept, the token that proves whose it is.
    `offered_to`: on creation of an open one, to how many agents it went at once."""

    success: bool = True
    lease: str | UnsetType = UNSET
    offered_to: int | UnsetType = UNSET


class WorkOrderEvent(Struct, kw_only=True):
    """One thing that happened. `actor` is null where it was the broker; `by` says which side it was."""

    seq: int
    at: datetime
    action: str
    by: str
    actor: AgentName | None
    from_status: str | None = field(name="from")
    to_status: str = field(name="to")
    detail: Raw


class WorkOrderWithHistory(WorkOrderView, kw_only=True):
    """A work order and everything that happened to it, oldest first."""

    history: list[WorkOrderEvent]


class WorkOrderList(Struct, kw_only=True):
    """Reply to `GET /work-orders`, newest first. `total` counts all that match, not this page."""

    agent_id: str
    role: str
    total: int
    work_orders: list[WorkOrderView]
    next_cursor: str | None


# --- what messages hold -----------------------------------------------------------------------------

MESSAGE_OFFER = "work_order"
MESSAGE_UPDATE = "work_order_update"


class OfferContent(Struct, kw_only=True):
    """Content of a message of type `work_order`: there is one for you, or one you may take."""

    work_order_id: str
    title: str
    description: str
    requirements: Raw
    budget_usd: Decimal | None
    deadline_at: datetime | None
    capabilities: list[str]
    status: str


class UpdateContent(Struct, kw_only=True, omit_defaults=True):
    """Content of a message of type `work_order_update`: what was done, by which side, and what came of it."""

    work_order_id: str
    status: str
    action: str
    title: str
    by: str
    reason: str | None = None
    note: str | None = None
    percent: int | None = None
    estimated_completion: datetime | None = None
    result: Raw | UnsetType = UNSET
