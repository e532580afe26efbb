"""Requests and replies as values: everything about HTTP that needs no connection.

An operation of the contract is a function that builds a `Request`; a shell (`broker.client.http` with
asyncio, `broker.client.plain` without) carries it out; `read` types what came back. When to try again is
decided here too (`pause_s`), so the two shells differ in how they wait and in nothing else.
"""

import ssl
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final, Generic, TypeVar
from urllib.parse import quote

import httpx
import msgspec
from msgspec import Struct, field

from broker.client.failures import asked_patience_s
from schema import limits
from schema.codec import encode
from schema.errors import BrokerError, Unavailable

T = TypeVar("T")

TRIES: Final = 3
BACKOFF_S: Final = 0.2
"""Before the second try; four times that before the third."""
STREAM_QUIET_S: Final = 40.0
"""The broker says something every 15 s, if only that it is there; quieter for so long is broken."""
TOO_MANY: Final = 429
RETRY_AFTER_S_MAX: Final = 10.0
"""A broker that asks for more patience than this is not waited for: the caller is told instead."""


class Request(Struct, Generic[T], kw_only=True, frozen=True):
    """One request. `repeatable`: sent twice it does what it does once. `patience_ms`: how long the broker
    itself may wait before it answers."""

    method: str
    path: str
    reply: type[T]
    query: Mapping[str, Any] = field(default_factory=dict)  # texts, numbers, lists of texts; None: left out
    body: Any = None  # whatever JSON the operation takes
    headers: Mapping[str, str] = field(default_factory=dict)
    repeatable: bool = True
    patience_ms: int = 0

    def arguments(self, timeout_s: float) -> dict[str, Any]:  # what httpx's `build_request` takes
        """Return the request for httpx; `timeout_s` is beside what the broker itself may wait."""
        content = None if self.body is None else encode(self.body)
        kind = {} if content is None else {"Content-Type": "application/json"}
        return {
            "method": self.method,
            "url": self.path,
            "params": {name: _text(value) for name, value in self.query.items() if value is not None},
            "content": content,
            "headers": {**kind, **self.headers},
            "timeout": timeout_s + self.patience_ms / 1000,
        }

    def streaming(self, timeout_s: float) -> dict[str, Any]:  # what httpx's `stream` takes
        """Return the request for httpx, of a stream that is quiet for `STREAM_QUIET_S` at most."""
        return {
            **self.arguments(timeout_s),
            "headers": {"Accept": "text/event-stream", **self.headers},
            "timeout": httpx.Timeout(timeout_s, read=STREAM_QUIET_S),
        }


class Listing(Struct, Generic[T], kw_only=True, frozen=True):
    """A list in pages. The rows are the reply itself, or its attribute `rows`."""

    first: Request[Any]  # of a list of T, or of a struct that has one
    rows: str = ""

    def request(self, cursor: str | None) -> Request[Any]:
        """Return the request for the first page, or for the one a cursor leads to."""
        query = {"limit": limits.PAGE_ROWS_MAX, **self.first.query, "cursor": cursor}
        return msgspec.structs.replace(self.first, query=query)

    def page(self, headers: Mapping[str, str], reply: Any) -> tuple[Sequence[T], str | None]:
        """Return the rows of a reply and the cursor to the next page, None behind the last."""
        if self.rows:
            return getattr(reply, self.rows), reply.next_cursor
        return reply, headers.get("x-next-cursor")


def read(request: Request[T], body: bytes) -> T:
    """Return the reply, typed. Raises: Unavailable where what answers is no broker."""
    try:
        return msgspec.json.decode(body, type=request.reply)
    except msgspec.MsgspecError as error:
        raise Unavailable(f"the reply is not what this operation answers: {error}") from error


@cache
def tls() -> ssl.SSLContext:
    """Return the TLS settings of every client. Reading the authorities costs 40 ms: once is enough."""
    return httpx.create_ssl_context(trust_env=False)


def headers_of(key: str, agent_id: str | None) -> dict[str, str]:
    """Return what every request of a client carries: its key, and whom it claims to be."""
    headers = {"Authorization": f"Bearer {key}"}
    if agent_id is not None:
        headers["X-Agent-Id"] = agent_id
    return headers


def unreachable(error: Exception) -> Unavailable:
    """Return what to raise where no reply came."""
    return Unavailable(f"the broker cannot be reached: {str(error) or type(error).__name__}")


def pause_s(request: Request[Any], error: BrokerError, attempt: int) -> float | None:
    """Return how long to wait before the next try; None: no more tries.

    `attempt` counts from 0. A broker's `Retry-After` comes before our own backoff.
    """
    limited = error.status == TOO_MANY
    # What was refused for its rate has changed nothing: even what is not repeatable may be sent again.
    if not (limited or (request.repeatable and isinstance(error, Unavailable))) or attempt >= TRIES - 1:
        return None
    asked_s = asked_patience_s(error)
    if asked_s is None:
        return BACKOFF_S * float(4**attempt)
    return asked_s if asked_s <= RETRY_AFTER_S_MAX else None


def path_of(reference: str) -> str:
    """Return an id or a name as one segment of a path."""
    return quote(reference, safe="")


def given(**fields: Any) -> dict[str, Any]:  # whatever a body takes
    """Return the fields that are not None: what a body leaves out keeps its default."""
    return {name: value for name, value in fields.items() if value is not None}


def _text(value: Any) -> Any:  # see `Request.query`
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list | tuple):
        return [_text(item) for item in value]
    return value
