"""What the client shows where it differs from the schema: messages with their JSON decoded."""

from typing import Any, Literal

from schema.message import Json, MessageView

Wait = Literal["accepted", "recorded", "delivered", "processed", "reply"]
"""How far a message must have got before the broker answers its sender; `reply`: to its answer."""


class SentMessage(MessageView, kw_only=True):
    """A message as the contract shows it, its content decoded."""

    content: Json  # type: ignore[assignment]  # the same field, read instead of passed on
    metadata: Json  # type: ignore[assignment]  # the same field, read instead of passed on
    result: Any = None  # any JSON: whatever the recipient answered
