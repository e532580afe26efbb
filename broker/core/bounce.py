"""The note a sender gets when its message ended badly: a message of type `error`, made by the broker.

Pure: the id and the time come in. Invariant: automatic messages never cause automatic messages, so no two
agents can keep each other's notes going, and one that sends none hears of none.
"""

from datetime import datetime
from typing import Final

import msgspec
from msgspec import Raw, Struct

from schema.codec import encode
from schema.limits import HOP_MAX
from schema.message import Envelope, Reason

BOUNCE_TYPE: Final = "error"
AUTOMATIC: Final = Raw(b'{"automatic":true}')


class BounceContent(Struct, kw_only=True, frozen=True):
    """The content of a note: which message, to whom, and why it did not get there."""

    message_id: str
    reason: str
    to_agent_id: str | None
    to_agent_name: str | None
    message_type: str


class _Mark(Struct):
    automatic: bool = False


_mark = msgspec.json.Decoder(_Mark)


def is_automatic(metadata: Raw) -> bool:
    """Tell whether a message was made by the broker (or says so)."""
    raw = bytes(metadata)
    if b'"automatic"' not in raw:
        return False
    try:
        return _mark.decode(raw).automatic
    except msgspec.MsgspecError:
        return False


def bounce_of(
    message: Envelope, reason: Reason, *, bounce_id: str, now: datetime, name: str | None = None
) -> Envelope | None:
    """Return the note to the sender of a message; None where there is no sender or the message is a note
    itself. `name`: what its recipient is called."""
    if message.from_agent_id is None or is_automatic(message.metadata):
        return None
    content = BounceContent(
        message_id=message.id,
        reason=reason.value,
        to_agent_id=message.to_agent_id,
        to_agent_name=name,
        message_type=message.message_type,
    )
    return Envelope(
        id=bounce_id,
        to_agent_id=message.from_agent_id,
        conversation_id=message.conversation_id,
        message_type=BOUNCE_TYPE,
        priority=message.priority,
        content=Raw(encode(content)),
        metadata=AUTOMATIC,
        created_at=now,
        reply_to=message.id,
        root_id=message.root_id or message.id,
        # Not beyond the limit: the last of a long chain must hear of its end too.
        hop=min(message.hop + 1, HOP_MAX),
    )
