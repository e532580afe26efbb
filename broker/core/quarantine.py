"""The event that sets aside what is no message. Whoever makes one counts it and writes it into the log."""

from base64 import b64encode

from schema.ledger import Event, EventKind
from schema.limits import QUARANTINED_BYTES_MAX
from schema.message import Reason


def set_aside(
    raw: bytes,
    *,
    stream: str,
    entry: str,
    detail: str,
    now_ms: int,
    reason: str | None = Reason.MALFORMED.value,
) -> Event:
    """Return the event that keeps these bytes for people to look at: the first `QUARANTINED_BYTES_MAX`.

    `stream`, `entry`: where they lay; `detail`: what was wrong, in words.
    """
    return Event(
        kind=EventKind.QUARANTINED,
        id=entry,
        at_ms=now_ms,
        reason=reason,
        detail=detail,
        raw=b64encode(raw[:QUARANTINED_BYTES_MAX]).decode(),
        stream=stream,
    )
