"""Dead letters: messages that failed or expired, and how they are sent again."""

from datetime import datetime
from enum import Enum

from msgspec import Struct

from schema.message import MessageView


class DeadLetter(MessageView, kw_only=True):
    """A message that failed or expired. `round`: how often it has been replayed so far."""

    round: int = 0


class ReplayRequest(Struct, kw_only=True):
    """Body of `POST /api/dead-letters/replay`: `ids`, or at least one of the other filters."""

    ids: list[str] | None = None
    agent_id: str | None = None
    from_agent_id: str | None = None
    to_agent_id: str | None = None
    reason: str | None = None
    message_type: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    limit: int | None = None
    cursor: str | None = None


class Skip(Enum):
    """Why a message is not replayed. NOT_A_DEAD_LETTER: unknown, not yours, not dead (any more), or just
    being replayed by another. NOT_TAKEN: its recipient takes no messages of who asks (any more)."""

    NOT_A_DEAD_LETTER = "not_a_dead_letter"
    TOO_OLD = "too_old"
    NO_DESTINATION = "no_destination"
    TOO_MANY_ROUNDS = "too_many_rounds"
    NOT_TAKEN = "not_taken"


class ReplayReply(Struct, kw_only=True):
    """What became of a replay. `skipped_ids`, and why in `skipped_reasons`, by id. `more`: there are further
    dead letters; `next_cursor` continues behind these. `matching`: how many the filter finds, told where a
    filter begins; so many at most."""

    replayed: int
    skipped: int
    skipped_ids: list[str]
    skipped_reasons: dict[str, str] = {}
    more: bool = False
    next_cursor: str | None = None
    matching: int | None = None
