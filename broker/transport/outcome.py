"""How a push ends: an Answer (the endpoint spoke HTTP, whatever the status) or a Failure.

Both are values, not exceptions. Failure messages are for people and are stored: short,
and free of URLs, bodies and headers.
"""

from collections.abc import Callable
from enum import Enum
from time import monotonic_ns
from typing import Any, TypeVar

from msgspec import Struct

from broker.transport.endpoint import Target
from schema.quick import quick


@quick
class FailureKind(Enum):
    """Why there is no answer. `DENIED` is the address policy, `TOO_LARGE` a response head past its bound."""

    TIMEOUT = "timeout"
    CONNECT = "connect"
    RESOLVE = "resolve"
    TLS = "tls"
    RESET = "reset"
    PROTOCOL = "protocol"
    DENIED = "denied"
    TOO_LARGE = "too_large"
    CANCELLED = "cancelled"


class Deadlines(Struct, frozen=True):
    """How long an attempt may take; `total_ms` counts from the post, whatever happens in between."""

    total_ms: int = 15_000
    connect_ms: int = 3_000
    tls_ms: int = 5_000
    first_byte_ms: int = 10_000


class Answer(Struct):
    """A final response. `body` holds at most RESPONSE_READ_BYTES_MAX bytes; what was beyond is not read.
    `ended_ms`: when it was there, by `clock_ms`."""

    status: int
    retry_after: str | None
    body: bytes
    duration_ms: int
    ended_ms: int


class Failure(Struct):
    """No final response, and why. `ended_ms`: since when that is known, by `clock_ms`."""

    kind: FailureKind
    message: str
    duration_ms: int
    ended_ms: int


class Trouble(Struct, frozen=True):
    """What a step on the way reports; the client makes a Failure of it by adding the time taken."""

    kind: FailureKind
    message: str


Subject = TypeVar("Subject")
Done = Callable[[Subject, Answer | Failure], None]


class Push(Struct, gc=False):
    """A post on its way through the client. `done` gets `subject` back: one callback serves all posts, where
    a callable for each would cost as much as the rest of the client. `fresh` forbids the one retry after a
    stale connection.

    Not tracked by the garbage collector: it lives for milliseconds and nothing it holds points back to it.
    """

    target: Target
    head: bytes
    body: bytes
    deadlines: Deadlines
    done: Done[Any]  # what `subject` is; `PushClient.post` sees to that
    subject: object
    started_ms: int
    ends_ms: int
    fresh: bool = False


def clock_ms() -> int:
    """Return the monotonic clock in milliseconds."""
    return monotonic_ns() // 1_000_000
