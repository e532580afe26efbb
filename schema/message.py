"""Messages: lanes, statuses, the envelope on the streams, and what the HTTP edge shows.

`Envelope` is the message as it travels: `content`, `metadata` stay raw bytes, nothing on the hot path
parses them. Its encoding *is* the body pushed to an endpoint, so it never changes between attempts.
"""

from datetime import datetime
from enum import Enum
from typing import Annotated, Any, Final, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field

from schema.limits import (
    AGENT_NAME_CHARS_MAX,
    CONVERSATION_ID_CHARS_MAX,
    COUNTER_MAX,
    MESSAGE_TYPE_CHARS_MAX,
    PRIORITY_DEFAULT,
    PRIORITY_MAX,
    PRIORITY_MIN,
    REQUIREMENTS_MAX,
    REROUTES_MAX,
)
from schema.quick import quick

EMPTY_OBJECT: Final = Raw(b"{}")
"""What `content` and `metadata` are where nobody said anything."""


@quick
class Lane(Enum):
    """A priority class; each has streams of its own."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


LANES: Final = (Lane.HIGH, Lane.NORMAL, Lane.LOW)
LANE_OF: Final = (Lane.HIGH,) * 4 + (Lane.NORMAL,) * 4 + (Lane.LOW,) * 3
"""The lane by priority."""


def lane_of(priority: int) -> Lane:
    """Return the lane of a priority from 1 to 10: 1-3 high, 4-7 normal, 8-10 low."""
    return LANE_OF[priority]


@quick
class Status(Enum):
    """Where a message is in its life. See `broker.core.lifecycle` for the transitions."""

    PENDING = "pending"
    DELIVERED = "delivered"
    PROCESSED = "processed"
    FAILED = "failed"
    EXPIRED = "expired"
    CANCELLED = "cancelled"


@quick
class Reason(Enum):
    """Why a message ended the way it did; `status_reason` of the contract (an agent may add its own text)."""

    EXHAUSTED = "exhausted"
    REJECTED = "rejected"
    GONE = "gone"
    UNKNOWN_RECIPIENT = "unknown_recipient"
    UNKNOWN_SENDER = "unknown_sender"
    ENDPOINT_INVALID = "endpoint_invalid"
    HOP_LIMIT = "hop_limit"
    EXPIRED = "expired"
    MALFORMED = "malformed"
    POISON = "poison"
    SENDER_NOT_ALLOWED = "sender_not_allowed"
    RECIPIENT_DISABLED = "recipient_disabled"
    ENDPOINT_DISABLED = "endpoint_disabled"
    RECIPIENT_DELETED = "recipient_deleted"
    INBOX_FULL = "inbox_full"
    LOOP = "loop"
    ROOT_LIMIT = "root_limit"
    KILLED = "killed"
    DECLINED = "declined"


AgentRef = Annotated[str, Meta(min_length=1, max_length=AGENT_NAME_CHARS_MAX)]
"""An agent's id or its name."""
Counter = Annotated[int, Meta(ge=0, le=COUNTER_MAX)]


class Tried(Struct, gc=False):
    """An agent that was chosen for a message and did not manage it, or declined. `attempts`: how many the
    message had used by then, over all agents of the round."""

    agent_id: Annotated[str, Meta(max_length=AGENT_NAME_CHARS_MAX)]
    reason: Annotated[str, Meta(max_length=64)]
    attempts: Annotated[int, Meta(ge=0, le=COUNTER_MAX)]
    at_ms: int


class Envelope(Struct, kw_only=True, gc=False):
    """A message on the streams, as publishers write it and as endpoints receive it.

    `to_agent_id` may be a name until the router has resolved it; without one, `requirements` (here or in
    `content.requirements`) are the capabilities needed. `round` counts replays: it is part of the
    deduplication key, so a replayed message keeps its id. Bounds are checked where it is decoded.
    """

    id: str
    from_agent_id: AgentRef | None = None
    to_agent_id: AgentRef | None = None
    conversation_id: Annotated[str, Meta(max_length=CONVERSATION_ID_CHARS_MAX)] | None = None
    message_type: Annotated[str, Meta(min_length=1, max_length=MESSAGE_TYPE_CHARS_MAX)] = "message"
    priority: Annotated[int, Meta(ge=PRIORITY_MIN, le=PRIORITY_MAX)] = PRIORITY_DEFAULT
    content: Raw = field(default_factory=lambda: EMPTY_OBJECT)
    metadata: Raw = field(default_factory=lambda: EMPTY_OBJECT)
    status: str = "pending"
    expires_at: datetime | None = None
    created_at: datetime | None = None
    reply_to: str | None = None
    root_id: str | None = None
    hop: Counter = 0
    requirements: Annotated[list[str], Meta(max_length=REQUIREMENTS_MAX)] | UnsetType = UNSET
    deliver_at: datetime | UnsetType | None = UNSET
    round: Counter | UnsetType = UNSET
    route: Raw | UnsetType = UNSET
    """Only between routers: why they chose a recipient in another shard. No agent sees it."""
    tried: Annotated[list[Tried], Meta(max_length=REROUTES_MAX)] | UnsetType = UNSET
    """Who was chosen before and did not take it, oldest first."""


class ContentRequirements(Struct):
    """The part of a task's content that routing needs when `requirements` is not at the top."""

    requirements: list[str] | None = None


class DeliveryOptions(Struct, frozen=True):
    """The part of `metadata` that governs delivery. Out-of-range values are clamped by the deployment."""

    retry_policy: Literal["exponential_backoff", "fixed", "none"] | None = None
    max_retries: int | None = None
    timeout: float | None = None


class SendRequest(Struct, kw_only=True, forbid_unknown_fields=False):
    """Body of `POST /api/messages`. Bounds are checked by `broker.gateway`, all faults at once."""

    id: str | None = None
    from_agent_id: str | None = None
    to_agent_id: str | None = None
    conversation_id: str | None = None
    message_type: str = "message"
    priority: int = PRIORITY_DEFAULT
    content: Raw = field(default_factory=lambda: EMPTY_OBJECT)
    metadata: Raw = field(default_factory=lambda: EMPTY_OBJECT)
    requirements: list[str] | None = None
    expires_at: datetime | None = None
    deliver_at: datetime | None = None
    reply_to: str | None = None
    caused_by: str | None = None


class MessageView(Struct, kw_only=True):
    """A message as the HTTP contract shows it (section A)."""

    id: str
    from_agent_id: str | None
    to_agent_id: str | None
    conversation_id: str | None
    message_type: str
    priority: int
    content: Raw
    metadata: Raw
    status: str
    retry_count: int
    expires_at: datetime | None
    created_at: datetime
    delivered_at: datetime | None
    processed_at: datetime | None
    result: Raw | None
    status_reason: str | None
    reply_to: str | None = None
    root_id: str | None = None
    hop: int = 0
    deliver_at: datetime | None = None
    next_attempt_at: datetime | None = None
    durability: str | UnsetType = UNSET
    """Only in replies to publishers, and only where the deployment does not sync: `buffered`."""
    reply: "MessageView | UnsetType | None" = UNSET
    """Only for publishers that wait for one: the reply to this message, null where there is none."""


class StatusChange(Struct, kw_only=True):
    """Body of `PUT /api/messages/{id}/status`. `result` is raw JSON, `null` where there is none."""

    status: str
    result: Raw = field(default_factory=lambda: Raw(b"null"))
    reason: str | None = None


Json = dict[str, Any]
