"""Bodies of the HTTP contract for inboxes (section B)."""

from datetime import datetime

from msgspec import Raw, Struct


class SenderView(Struct, kw_only=True):
    """Who sent a message. `name` is null for an id nobody is registered under."""

    id: str
    name: str | None


class InboxMessage(Struct, kw_only=True):
    """A message as its recipient sees it. `subject` and `body`: texts of its content, if any."""

    message_id: str
    from_agent: SenderView | None
    type: str
    subject: str | None
    body: str | None
    priority: int
    content: Raw
    created_at: datetime
    status: str
    conversation_id: str | None
    reply_to: str | None
    expires_at: datetime | None
    delivered_at: datetime | None
    metadata: Raw
    hop: int


class InboxReply(Struct, kw_only=True):
    """Reply to `GET /api/v1/messaging/inbox`. Where `total_is_lower_bound`, there are more than
    `total_messages`."""

    agent_id: str
    total_messages: int
    total_is_lower_bound: bool
    messages: list[InboxMessage]
    next_cursor: str | None


class MarkReadReply(Struct, kw_only=True):
    """Reply to `POST /api/v1/messaging/mark-read/{message_id}`. `read_at`: when it was read first."""

    success: bool
    message_id: str
    read_at: datetime
    status: str
