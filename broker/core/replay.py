"""How a dead letter is sent again: the same message in its next round. Pure.

The round is part of what routers deduplicate by, and what orders events of one message on record: a later
round overrides an earlier one.
"""

from datetime import datetime
from typing import Final

import msgspec
from msgspec import UNSET

from schema.dead_letter import DeadLetter, Skip
from schema.limits import COUNTER_MAX
from schema.message import ContentRequirements, Envelope
from schema.times import to_ms

_content: Final = msgspec.json.Decoder(ContentRequirements)


def next_round(
    letter: DeadLetter, *, requirements: list[str] | None, chosen: bool, now: datetime, age_ms_max: int
) -> Envelope | Skip:
    """Return the message as it is published again, or why it cannot be. `age_ms_max`: an older one would be
    dropped from the record before it came to its end.

    A recipient who was chosen by capability (or never found) is chosen anew. An expiry that has passed is
    taken away, or it would expire at once; so is the time it was scheduled for.
    """
    if letter.round >= COUNTER_MAX:
        return Skip.TOO_MANY_ROUNDS
    if to_ms(now) - to_ms(letter.created_at) > age_ms_max:
        return Skip.TOO_OLD
    needed = requirements
    if needed is None and (chosen or letter.to_agent_id is None):
        needed = _of_content(letter)
    to = None if chosen and needed else letter.to_agent_id
    if to is None and not needed:
        return Skip.NO_DESTINATION
    return Envelope(
        id=letter.id,
        from_agent_id=letter.from_agent_id,
        to_agent_id=to,
        conversation_id=letter.conversation_id,
        message_type=letter.message_type,
        priority=letter.priority,
        content=letter.content,
        metadata=letter.metadata,
        expires_at=None if letter.expires_at is None or letter.expires_at <= now else letter.expires_at,
        created_at=letter.created_at,
        reply_to=letter.reply_to,
        root_id=letter.root_id,
        hop=letter.hop,
        requirements=needed or UNSET,
        round=letter.round + 1,
    )


def _of_content(letter: DeadLetter) -> list[str] | None:
    try:
        return _content.decode(letter.content).requirements
    except msgspec.MsgspecError:
        return None
