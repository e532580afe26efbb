"""What a handler gets and gives: plain values, so that the web framework stays a shell around them.

A handler is `async (Call) -> Reply`. By the time it runs, the principal is known and allowed to do this,
and query and body are typed and within bounds.
"""

from collections.abc import Awaitable, Callable
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from msgspec import Struct

from broker.gateway.channel import Channel

if TYPE_CHECKING:
    from broker.gateway.services import Services

BodyT = TypeVar("BodyT")
QueryT = TypeVar("QueryT")


class Scope(Enum):
    """What a key may be allowed to do. Every operation that needs a key names one."""

    AGENTS_READ = "agents:read"
    AGENTS_WRITE = "agents:write"
    AGENTS_UPDATE = "agents:update"
    HEARTBEAT = "agents:heartbeat"
    MESSAGES_READ = "messages:read"
    MESSAGES_SEND = "messages:send"
    MESSAGES_UPDATE = "messages:update"
    KEYS = "keys"
    CONTACTS = "contacts"
    WORK_ORDERS = "work_orders"
    STATISTICS = "statistics:read"
    DEAD_LETTERS = "dead_letters"
    STOPS = "stops"


AGENT_SCOPES = frozenset(Scope) - {Scope.AGENTS_WRITE, Scope.STOPS}
"""Scopes of the key an agent gets at its registration: all but registering others, and stopping them."""


class Principal(Struct, frozen=True):
    """Who calls. Without `agent_id` it is an operator, who may act for any agent."""

    agent_id: str | None
    key_id: str
    scopes: frozenset[Scope]

    @property
    def is_operator(self) -> bool:
        return self.agent_id is None

    @property
    def metered(self) -> str | None:
        """The key whose messages are counted against its rate; None for an operator's, which is not."""
        return None if self.agent_id is None else self.key_id


OPERATOR = Principal(None, "operator", frozenset(Scope))


class NoQuery(Struct):
    """Query of an operation that takes none."""


class Call(Generic[BodyT, QueryT]):
    """One authorised request. `claimed_agent` is the `X-Agent-Id` header: a claim, not an identity.
    `idempotency_key`: the header of that name, unchecked; see `broker.gateway.idempotency`.
    `authorization`: what the caller proved itself with, for who has to ask again; None where nobody asks.
    `is_gone` tells whether the caller has hung up, as far as the server knows."""

    __slots__ = (
        "authorization",
        "body",
        "claimed_agent",
        "idempotency_key",
        "is_gone",
        "path",
        "principal",
        "query",
        "services",
    )

    def __init__(
        self,
        services: "Services",
        principal: Principal,
        path: dict[str, str],
        *,
        query: QueryT,
        body: BodyT,
        claimed_agent: str | None = None,
        idempotency_key: str | None = None,
        authorization: str | None = None,
    ) -> None:
        self.services = services
        self.principal = principal
        self.path = path
        self.query = query
        self.body = body
        self.claimed_agent = claimed_agent
        self.idempotency_key = idempotency_key
        self.authorization = authorization
        self.is_gone: Callable[[], bool] = _never


def _never() -> bool:
    return False


class Reply(Struct, gc=False):
    """What goes back. `body` is encoded as JSON, or sent as it is when it is bytes already. `stream`: of an
    operation that streams, what is done with the connection from here on."""

    status: int = 200
    body: Any = None  # whatever the operation's reply type is
    headers: tuple[tuple[str, str], ...] = ()
    media_type: str = "application/json"
    stream: Callable[[Channel], Awaitable[None]] | None = None
