"""What the client shows where it differs from the schema: JSON is decoded that the broker only passes on."""

from typing import Any, Literal

from schema.inbox import InboxMessage, InboxReply
from schema.message import Json, MessageView
from schema.work_order import WorkOrderEvent, WorkOrderList, WorkOrderReply

Wait = Literal["accepted", "recorded", "delivered", "processed", "reply"]
"""How far a message must have got before the broker answers its sender; `reply`: to its answer."""


class SentMessage(MessageView, kw_only=True):
    """A message as the contract shows it, its content decoded. `reply`: only where it was waited for."""

    content: Json  # type: ignore[assignment]  # the same field, read instead of passed on
    metadata: Json  # type: ignore[assignment]  # the same field, read instead of passed on
    result: Any = None  # any JSON: whatever the recipient answered
    reply: "SentMessage | None" = None


class DeadMessage(SentMessage, kw_only=True):
    """A message that failed or expired. `round`: how often it has been replayed so far."""

    round: int = 0


class ReceivedMessage(InboxMessage, kw_only=True):
    """A message as its recipient sees it, its content decoded."""

    content: Json  # type: ignore[assignment]  # the same field, read instead of passed on
    metadata: Json  # type: ignore[assignment]  # the same field, read instead of passed on


class InboxPage(InboxReply, kw_only=True):
    """A page of an inbox, its messages decoded."""

    messages: list[ReceivedMessage]  # type: ignore[assignment]  # narrower than what the broker writes


class WorkOrder(WorkOrderReply, kw_only=True):
    """A work order, its JSON decoded. `lease` is set in the reply to an accept only."""

    requirements: Json  # type: ignore[assignment]  # the same field, read instead of passed on
    result: Any = None  # any JSON: whatever the worker delivered
    lease: str | None = None  # type: ignore[assignment]  # None is easier to ask for than UNSET
    offered_to: int | None = None  # type: ignore[assignment]  # as `lease`


class WorkOrderStep(WorkOrderEvent, kw_only=True):
    """One thing that happened to a work order, its detail decoded."""

    detail: Any  # any JSON: it depends on the action


class WorkOrderStory(WorkOrder, kw_only=True):
    """A work order and everything that happened to it, oldest first."""

    history: list[WorkOrderStep]


class WorkOrderPage(WorkOrderList, kw_only=True):
    """A page of work orders, decoded."""

    work_orders: list[WorkOrder]  # type: ignore[assignment]  # narrower than what the broker writes
