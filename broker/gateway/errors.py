"""How errors look over HTTP: one body for all of them, the status and headers that belong to the class.

Only errors the product raises on purpose say what happened. Anything else is `internal`, told apart in the
log by its request id; its text never leaves the process.
"""

import re
from typing import ClassVar, Final

from schema.codec import encode
from schema.errors import (
    BrokerError,
    DataFault,
    Malformed,
    RateLimited,
    Rejected,
    TooLarge,
    Unauthenticated,
    Unavailable,
)
from schema.http import ErrorBody, ErrorReply, FaultView
from schema.ids import new_id

CHALLENGE: Final = 'Bearer realm="agent-broker"'
LATE: Final = "the body did not arrive in time"
LOGGED: Final = "something went wrong here; it has been logged"
_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._:-]{1,64}")


class NoSuchPath(Rejected):
    code = "not_found"
    status = 404


class MethodNotAllowed(Rejected):
    """The path exists, not this method; `allowed` are those that do."""

    code = "method_not_allowed"
    status = 405

    def __init__(self, allowed: list[str]) -> None:
        super().__init__(f"this path takes {', '.join(allowed)}")
        self.allowed = allowed


class BodyTimeout(Malformed):
    """The body came too slowly."""

    code = "request_timeout"
    status: ClassVar[int] = 408


class HeadTooLarge(TooLarge):
    """The head of the request, its URL and headers, is larger than any of ours has to be."""

    code = "head_too_large"
    status = 431


class Internal(BrokerError):
    code = "internal"
    status = 500


def error_body(error: BrokerError, request_id: str | None = None) -> ErrorBody:
    """Return the error as the contract shows it."""
    details = [FaultView(field=fault.field, message=fault.message) for fault in error.faults]
    return ErrorBody(
        code=error.code,
        message=error.message,
        field=error.field,
        request_id=request_id,
        retry_after_s=_retry_after_s(error),
        details=details or None,
    )


def presentable(error: BrokerError) -> BrokerError:
    """Return the error as it may be told: what the store refuses came from the request."""
    return Rejected("a value in this request cannot be stored") if isinstance(error, DataFault) else error


def request_id(given: str | None) -> str:
    """Return the caller's own id of a request where it is fit for logs and headers, else a new one."""
    return given if given and _REQUEST_ID.fullmatch(given) else new_id()


def encode_error(error: BrokerError, request_id: str) -> bytes:
    """Return the body of the reply to a failed request."""
    return encode(ErrorReply(error=error_body(error, request_id)))


def error_headers(error: BrokerError) -> dict[str, str]:
    """Return the headers that belong to the error."""
    if (after_s := _retry_after_s(error)) is not None:
        return {"Retry-After": str(after_s)}
    if isinstance(error, Unauthenticated):
        return {"WWW-Authenticate": CHALLENGE}
    if isinstance(error, MethodNotAllowed):
        return {"Allow": ", ".join(error.allowed)}
    return {}


def _retry_after_s(error: BrokerError) -> int | None:
    return error.retry_after_s if isinstance(error, Unavailable | RateLimited) else None
