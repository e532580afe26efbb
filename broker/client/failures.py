"""Raises what the broker refused as the class its code belongs to, so that clients catch types, not texts."""

from collections.abc import Iterator
from typing import Final

import msgspec

from schema.errors import BrokerError, Conflict, Fault, RateLimited, Rejected, Unavailable
from schema.http import ErrorBody, ErrorReply

RATE_LIMITED_S: Final = 1
"""To wait where a refusal for the rate does not say how long."""
_ASKED: Final = "retry_after_s"
"""What `RateLimited` always has, and an instance of any other class where the reply said it."""
_decode: Final = msgspec.json.Decoder(ErrorReply).decode


def raise_for(status: int, body: bytes, *, retry_after: str | None = None) -> None:
    """Return for a 2xx.

    `retry_after`: that header of the reply; the error remembers it for `asked_patience_s`.

    Raises: BrokerError, the class with the code in the body; of an unknown code the status' branch.
    """
    if 200 <= status < 300:
        return
    try:
        error = _decode(body).error
    except msgspec.MsgspecError:
        # Not the broker's: a proxy's, or something else that listens there.
        error = ErrorBody(code="unknown", message=f"status {status} without an error of the broker")
    # Whole seconds only: a date is a proxy's, and its clock is not ours.
    is_seconds = retry_after is not None and retry_after.isascii() and retry_after.isdigit()
    raise error_of(status, error, retry_after_s=int(retry_after or 0) if is_seconds else None)


def asked_patience_s(error: BrokerError) -> int | None:
    """Return how long the broker asked to wait before the same request, None where it did not say."""
    asked: int | None = vars(error).get(_ASKED)
    return asked


def error_of(status: int, error: ErrorBody, *, retry_after_s: int | None = None) -> BrokerError:
    """Return the error as an exception; `str` of it is the broker's sentence."""
    kind = _BY_CODE.get(error.code) or _branch(status)
    faults = tuple(Fault(detail.field, detail.message) for detail in error.details or ())
    if issubclass(kind, RateLimited):
        return kind(error.message, retry_after_s=retry_after_s or RATE_LIMITED_S, field=error.field)
    raised = kind(error.message, field=error.field, faults=faults)
    if retry_after_s is not None:
        vars(raised)[_ASKED] = retry_after_s
    return raised


def _branch(status: int) -> type[BrokerError]:
    if status >= 500 or status in (408, 429):
        return Unavailable
    return Conflict if status == 409 else Rejected


def _classes(kind: type[BrokerError]) -> Iterator[type[BrokerError]]:
    yield kind
    for sub in kind.__subclasses__():
        yield from _classes(sub)


_BY_CODE: Final = {kind.code: kind for kind in _classes(BrokerError) if kind.__module__ == "schema.errors"}
