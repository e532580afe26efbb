"""The note a sender gets when its message ended badly: a message of type `error`, made by the broker.

Pure: ids and times come in. Invariants: automatic messages never cause automatic messages, so no two agents
can keep each other's notes going, and one that sends none hears of none; a sender gets at most so many notes
in a window of time, and of what ends beyond that one note with the number.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec
from msgspec import Raw, Struct

from schema.codec import encode
from schema.limits import HOP_MAX
from schema.message import Envelope, Reason, Status

BOUNCE_TYPE: Final = "error"
AUTOMATIC: Final = Raw(b'{"automatic":true}')
OTHER_REASON: Final = "other"
"""What a reason in an agent's own words counts as."""

_REASONS: Final = frozenset(reason.value for reason in Reason)


class BadEnd(Struct, kw_only=True, frozen=True):
    """A message that has failed or expired, as far as its sender is told. `reason`: a `Reason`, or the words
    of the agent that refused it; `to_agent_name`: what its recipient is called."""

    id: str
    from_agent_id: str
    to_agent_id: str | None = None
    to_agent_name: str | None = None
    conversation_id: str | None = None
    message_type: str = "message"
    priority: int
    root_id: str | None = None
    hop: int = 0
    round: int = 0
    status: str = Status.FAILED.value
    reason: str | None = None


class BounceContent(Struct, kw_only=True, frozen=True):
    """The content of a note: which message, to whom, how it ended and why. `round`: how often it had been
    replayed by then."""

    message_id: str
    status: str
    reason: str | None
    to_agent_id: str | None
    to_agent_name: str | None
    message_type: str
    round: int


class BounceSummary(Struct, kw_only=True, frozen=True):
    """The content of the one note about many messages: how many ended in a time without a note of their own,
    and how many for each reason. The dead letters themselves name them."""

    count: int
    reasons: dict[str, int]
    since: datetime
    until: datetime


class Tally(Struct):
    """What one sender was told in the window that is open. `reasons`: of those held, by reason."""

    told: int = 0
    held: int = 0
    reasons: dict[str, int] = msgspec.field(default_factory=dict)


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


def admit(tally: Tally, ends: Sequence[BadEnd], *, told_max: int) -> Sequence[BadEnd]:
    """Return the ends a sender is told of one by one; the rest goes into the tally, which is changed."""
    room = max(0, told_max - tally.told)
    for end in ends[room:]:
        reason = counted_as(end.reason)
        tally.reasons[reason] = tally.reasons.get(reason, 0) + 1
        tally.held += 1
    tally.told += len(ends[:room])
    return ends[:room]


def counted_as(reason: str | None) -> str:
    """Return what a reason counts as: itself, or `OTHER_REASON` where it is in an agent's own words."""
    return reason if reason in _REASONS else OTHER_REASON


def bounce_of(end: BadEnd, *, bounce_id: str, now: datetime) -> Envelope:
    """Return the note to the sender of a message that ended badly."""
    content = BounceContent(
        message_id=end.id,
        status=end.status,
        reason=end.reason,
        to_agent_id=end.to_agent_id,
        to_agent_name=end.to_agent_name,
        message_type=end.message_type,
        round=end.round,
    )
    return Envelope(
        id=bounce_id,
        to_agent_id=end.from_agent_id,
        conversation_id=end.conversation_id,
        message_type=BOUNCE_TYPE,
        priority=end.priority,
        content=Raw(encode(content)),
        metadata=AUTOMATIC,
        created_at=now,
        reply_to=end.id,
        root_id=end.root_id or end.id,
        # Not beyond the limit: the last of a long chain must hear of its end too.
        hop=min(end.hop + 1, HOP_MAX),
    )


def summary_of(sender_id: str, tally: Tally, *, since: datetime, note_id: str, now: datetime) -> Envelope:
    """Return the one note about everything a sender was not told of one by one."""
    content = BounceSummary(count=tally.held, reasons=tally.reasons, since=since, until=now)
    return Envelope(
        id=note_id,
        to_agent_id=sender_id,
        message_type=BOUNCE_TYPE,
        content=Raw(encode(content)),
        metadata=AUTOMATIC,
        created_at=now,
        root_id=note_id,
    )
