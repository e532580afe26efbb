"""A message as a handler gets it, and as it lies on the wire of every way in."""

from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from datetime import datetime
from typing import Any
from uuid import NAMESPACE_URL, uuid5

from msgspec import Struct, field

from schema.limits import PRIORITY_DEFAULT
from schema.message import Json

RESPONSE_TYPE = "response"
NOTICES = frozenset(
    (
        *(RESPONSE_TYPE, "error", "status", "heartbeat", "ping"),
        *("contact_request", "contact_response", "work_order_update", "loop_detected"),
    )
)
"""Types that tell an agent something and ask nothing of it: no handler is no failure, no answer goes back."""


class Arrival(Struct, kw_only=True):
    """The fields of a pushed or pulled message that the SDK reads."""

    id: str
    message_type: str
    content: Json = field(default_factory=dict)
    metadata: Json = field(default_factory=dict)
    from_agent_id: str | None = None
    conversation_id: str | None = None
    reply_to: str | None = None
    priority: int = PRIORITY_DEFAULT
    created_at: datetime | None = None
    expires_at: datetime | None = None

    @property
    def wants_answer(self) -> bool:
        """Whether what a handler returns also goes back: somebody sent it, and not as an answer or notice.

        An answer is never answered by itself, so two agents cannot keep each other busy.
        """
        return (
            self.from_agent_id is not None
            and self.reply_to is None
            and self.message_type not in NOTICES
            and self.metadata.get("automatic") is not True
        )


handled: ContextVar[str | None] = ContextVar("handled", default=None)
"""The id of the message whose handler runs: what it sends is caused by it."""

Send = Callable[..., Awaitable[str]]
"""`Agent.send`."""


class Message:
    """A message in a handler's hands. What the handler returns is its result; see `Agent.on`."""

    __slots__ = ("_arrival", "_replies", "_send", "attempt")

    def __init__(self, arrival: Arrival, *, attempt: int, send: Send) -> None:
        self._arrival = arrival
        self._send = send
        self._replies = 0
        self.attempt = attempt
        """Counts from 1: of the broker's pushes (webhook), or of this process's tries (the other ways)."""

    @property
    def id(self) -> str:
        return self._arrival.id

    @property
    def type(self) -> str:
        return self._arrival.message_type

    @property
    def content(self) -> Json:
        return self._arrival.content

    @property
    def metadata(self) -> Json:
        return self._arrival.metadata

    @property
    def sender(self) -> str | None:
        """The id of the agent that sent it; None where an operator did."""
        return self._arrival.from_agent_id

    @property
    def conversation_id(self) -> str | None:
        return self._arrival.conversation_id

    @property
    def reply_to(self) -> str | None:
        """The id of the message this one answers."""
        return self._arrival.reply_to

    @property
    def priority(self) -> int:
        return self._arrival.priority

    @property
    def created_at(self) -> datetime | None:
        return self._arrival.created_at

    @property
    def expires_at(self) -> datetime | None:
        return self._arrival.expires_at

    @property
    def replied(self) -> bool:
        """Whether the handler has answered by itself; what it returns is then the result and nothing more."""
        return self._replies > 0

    async def reply(
        self,
        content: Mapping[str, Any],  # an agent's own JSON
        *,
        message_type: str = RESPONSE_TYPE,
        **more: Any,  # the other fields of SendRequest
    ) -> str:
        """Answer the sender; return the answer's id.

        The id is made from this message's own: handled again after a crash, the same answer is sent once.

        Raises: ValueError where nobody sent it; as `Agent.send`.
        """
        if self.sender is None:
            raise ValueError("the message has no sender to answer")
        self._replies += 1
        return await self._send(
            content,
            to=self.sender,
            message_type=message_type,
            reply_to=self.id,
            id=answer_id(self.id, self._replies),
            **more,
        )

    def __repr__(self) -> str:
        return f"Message(id={self.id!r}, type={self.type!r}, sender={self.sender!r}, attempt={self.attempt})"


def answer_id(message_id: str, number: int) -> str:
    """Return the id of the number-th answer to a message; 0 is the one from the handler's value."""
    return str(uuid5(NAMESPACE_URL, f"agent-broker:answer:{message_id}:{number}"))
