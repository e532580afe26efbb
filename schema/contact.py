"""Contacts: who asked whom for permission to write, what was answered, and how both are shown."""

from datetime import datetime
from enum import Enum
from typing import Literal

from msgspec import Struct

from schema.limits import PRIORITY_DEFAULT
from schema.quick import quick


@quick
class ContactStatus(Enum):
    """What became of a request. A decision may be changed later by whoever made it."""

    PENDING = "pending"
    ACCEPTED = "accepted"
    DECLINED = "declined"


class Contact(Struct, kw_only=True, frozen=True):
    """One request and its answer. `agent_id` was asked by `peer_id` and decides.

    Accepted, both may write to each other; `rate_per_minute` bounds the peer only (None: no bound).
    `expires_ms` None: for good. `message_id`: the last request.
    """

    agent_id: str
    peer_id: str
    status: ContactStatus
    message_id: str
    created_ms: int
    rate_per_minute: int | None = None
    expires_ms: int | None = None
    reason: str | None = None
    decided_ms: int | None = None


class ContactRequest(Struct, kw_only=True):
    """Body of `POST /api/v1/messaging/send`."""

    to_agent_id: str
    subject: str
    body: str = ""
    priority: int = PRIORITY_DEFAULT


class ContactRequestContent(Struct, kw_only=True):
    """Content of a message of type `contact_request`."""

    subject: str
    body: str


class ContactRequestReply(Struct, kw_only=True):
    """Reply to a contact request. `contact_status`: `accepted` when the two are contacts already."""

    success: bool
    message_id: str
    from_agent_id: str
    to_agent_id: str
    contact_status: ContactStatus


class ContactAnswer(Struct, kw_only=True):
    """Body of `POST /api/v1/messaging/contacts/{peer}/respond`."""

    action: Literal["accept", "decline"]
    rate_per_minute: int | None = None
    expires_at: datetime | None = None
    reason: str | None = None


class ContactAnswerContent(Struct, kw_only=True):
    """Content of a message of type `contact_response`."""

    status: ContactStatus
    rate_per_minute: int | None
    expires_at: datetime | None
    reason: str | None


class Peer(Struct, kw_only=True):
    """The other side of a contact."""

    id: str
    name: str


class ContactView(Struct, kw_only=True):
    """A contact as one of its two sides sees it. `incoming`: the peer asked. `is_active`: both may write to
    each other because of it, now. `rate_per_minute` bounds the side that asked."""

    agent_id: str
    peer: Peer
    direction: Literal["incoming", "outgoing"]
    status: ContactStatus
    is_active: bool
    rate_per_minute: int | None
    expires_at: datetime | None
    reason: str | None
    message_id: str
    created_at: datetime
    decided_at: datetime | None


class ContactsPage(Struct, kw_only=True):
    """Reply to `GET /api/v1/messaging/contacts`, in the order the contacts began."""

    agent_id: str
    contacts: list[ContactView]
    next_cursor: str | None


class ContactEnded(Struct, kw_only=True):
    """Reply to the end of a contact."""

    success: bool
    agent_id: str
    peer_id: str
