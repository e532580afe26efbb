"""Dead letters: messages that failed or expired, and how they are sent again."""

from datetime import datetime

from msgspec import Struct

from schema.message import MessageView


class DeadLetter(MessageView, kw_only=True):
    """A message that failed or expired. `round`: how often it has been replayed so far."""

    round: int = 0


class ReplayRequest(Struct, kw_only=True):
    """Body of `POST /api/dead-letters/replay`: `ids`, or at least one of the other filters."""

    ids: list[str] | None = None
    agent_id: str | None = None
    reason: str | None = None
    since: datetime | None = None
    limit: int | None = None
    cursor: str | None = None


class ReplayReply(Struct, kw_only=True):
    """What became of a replay. `skipped_ids`: unknown, not yours, not dead (any more), too old, or without
    any destination. `more`: there are further dead letters; `next_cursor` continues behind these."""

    replayed: int
    skipped: int
    skipped_ids: list[str]
    more: bool = False
    next_cursor: str | None = None
