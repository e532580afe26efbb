"""What an operation of the HTTP contract is: the row type of the table in `broker.gateway.operations`."""

import re
from collections.abc import Awaitable, Callable
from typing import Any, Final

from msgspec import Struct

from broker.gateway.call import Call, NoQuery, Reply, Scope
from broker.gateway.reading import Check
from schema import limits
from schema.errors import BrokerError, Rejected, StoreUnavailable

_PARAMETER: Final = re.compile(r"\{(\w+)\}")

Handler = Callable[[Call[Any, Any]], Awaitable[Reply]]  # each operation has its own body and query


class Operation(Struct, kw_only=True, frozen=True):
    """One method on one path.

    `scope` None: needs no key. `body`: the type of its JSON body; a handler of a `raw_body` gets the bytes
    and reads them itself, `body` is then only what it documents. `streams`: a GET that answers with a
    stream, Server-Sent Events or, to who upgrades, a WebSocket. `replies`: type of the body per status of
    success. `errors`: what it may answer besides what every operation may (400, 401, 403, 413, 415, 422).
    """

    name: str
    method: str
    path: str
    summary: str
    handler: Handler
    replies: dict[int, Any]  # a Struct, a list of one, or None for a page that is no JSON
    tag: str
    scope: Scope | None
    body: Any = None  # a Struct type, a generic of one, or None
    raw_body: bool = False
    streams: bool = False
    optional_body: bool = False  # none at all means `{}`
    check: Check[Any] | None = None  # of the type in `body`
    body_bytes_max: int = limits.MESSAGE_BYTES_MAX
    query: type[Struct] = NoQuery
    check_query: Check[Any] | None = None  # of the type in `query`
    errors: tuple[type[BrokerError], ...] = (Rejected, StoreUnavailable)
    media_type: str = "application/json"
    idempotent_by_key: bool = False  # takes an Idempotency-Key

    @property
    def path_parameters(self) -> list[str]:
        """The names in braces, in order."""
        return _PARAMETER.findall(self.path)
