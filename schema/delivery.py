"""Attempts: one push of one message to one endpoint, and how it ended."""

from datetime import datetime
from enum import Enum

from msgspec import Struct

from schema.quick import quick


@quick
class AttemptStatus(Enum):
    SUCCESS = "success"
    FAILED = "failed"
    TIMEOUT = "timeout"


class Attempt(Struct, kw_only=True, gc=False, omit_defaults=True):
    """One attempt as it travels on the ledger. `number` counts from 1 within a `round`."""

    number: int
    status: AttemptStatus
    attempted_ms: int
    duration_ms: int = 0
    response_code: int | None = None
    response_body: str | None = None
    error: str | None = None
    round: int = 0
    agent_id: str | None = None
    """Whose it was, where several agents may have tried; None: the recipient's."""


class AttemptView(Struct, kw_only=True):
    """An attempt as the HTTP contract shows it."""

    attempt: int
    status: str
    response_code: int | None
    response_body: str | None
    error: str | None
    duration_ms: int
    attempted_at: datetime
    round: int = 0
    agent_id: str | None = None
