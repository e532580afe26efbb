"""Raises what the broker refused as the class its code belongs to, so that clients catch types, not texts."""

from collections.abc import Iterator
from typing import Final

import msgspec

from schema.errors import BrokerError, Conflict, Fault, Rejected, Unavailable
from schema.http import ErrorBody, ErrorReply

_ASKED: Final = "retry_after_s"
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
    raised = error_of(status, error)
    # Whole seconds only: a date is a proxy's, and its clock is not ours.
    if retry_after is not None and retry_after.isascii() and retry_after.isdigit():
        vars(raised)[_ASKED] = int(retry_after)
    raise raised


def asked_patience_s(error: BrokerError) -> int | None:
    """Return how long the broker asked to wait before the same request, None where it did not say."""
    asked: int | None = vars(error).get(_ASKED)
    return asked


def error_of(status: int, error: ErrorBody) -> BrokerError:
    """Return the error as an exception; `str` of it is the broker's sentence."""
    kind = _BY_CODE.get(error.code) or _branch(status)
    faults = tuple(Fault(detail.field, detail.message) for detail in error.details or ())
    return kind(error.message, field=error.field, faults=faults)


def _branch(status: int) -> type[BrokerError]:
    if status >= 500 or status in (408, 429):
        return Unavailable
    return Conflict if status == 409 else Rejected


def _classes(kind: type[BrokerError]) -> Iterator[type[BrokerError]]:
    yield kind
    for sub in kind.__subclasses__():
        yield from _classes(sub)


_BY_CODE: Final = {kind.code: kind for kind in _classes(BrokerError) if kind.__module__ == "schema.errors"}
