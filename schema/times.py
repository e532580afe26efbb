"""Milliseconds inside, datetimes at the edges.

A datetime without an offset is taken as UTC, as `datetime.utcnow().isoformat()` makes them.
"""

from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LAST_MS = 253_402_300_799_999
"""The last millisecond of the year 9999, beyond which no datetime is."""


def to_ms(moment: datetime) -> int:
    """Return milliseconds since the epoch."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    # What a difference is kept as, which is cheaper than a float's way there, and much than dividing one.
    since = moment - _EPOCH
    at_ms = (since.days * 86_400 + since.seconds) * 1000 + since.microseconds // 1000
    return at_ms if at_ms < _LAST_MS else _LAST_MS


def from_ms(at_ms: int) -> datetime:
    """Return the aware UTC datetime of milliseconds since the epoch."""
    return _EPOCH + timedelta(milliseconds=at_ms)


def as_utc(moment: datetime) -> datetime:
    """Return the same moment in UTC; a naive one is taken as UTC."""
    if moment.tzinfo is UTC:
        return moment
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    return moment.astimezone(UTC)
