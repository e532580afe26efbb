"""Agents: the record the broker keeps, and what the HTTP edge takes and shows."""

from datetime import datetime
from enum import Enum

from msgspec import Struct, field

from schema.limits import ENDPOINT_IN_FLIGHT_MAX
from schema.quick import quick


@quick
class AgentStatus(Enum):
    """`ACTIVE` agents get messages; `PAUSED` ones keep their mailbox but routing by capability skips them;
    `DISABLED` ones have been switched off by the broker (410, or days of failures) or an operator."""

    ACTIVE = "active"
    PAUSED = "paused"
    DISABLED = "disabled"


@quick
class RetrySchedule(Enum):
    """`AGENT`: seconds to minutes, because agents wait for each other. `WEBHOOK`: seconds to a day."""

    AGENT = "agent"
    WEBHOOK = "webhook"


@quick
class ContactPolicy(Enum):
    """Who may write to an agent. `OPEN`: everybody. `CONTACTS_ONLY`: accepted contacts; strangers may ask to
    become one. `CLOSED`: accepted contacts, and nobody may ask."""

    OPEN = "open"
    CONTACTS_ONLY = "contacts_only"
    CLOSED = "closed"


class Agent(Struct, kw_only=True, frozen=True):
    """An agent as every process with a directory holds it.

    `endpoint` None means the agent pulls. `accepts` None means every message type; `allow_from` None means
    every sender. `ordered`: one push in flight, a failure holds the rest. `deleted_ms`: since when it is
    leaving (0: it is not).
    """

    id: str
    name: str
    type: str = "agent"
    endpoint: str | None = None
    capabilities: tuple[str, ...] = ()
    status: AgentStatus = AgentStatus.ACTIVE
    max_concurrent_jobs: int = 10
    concurrency: int = ENDPOINT_IN_FLIGHT_MAX
    accepts: tuple[str, ...] | None = None
    allow_from: tuple[str, ...] | None = None
    ordered: bool = False
    retry_schedule: RetrySchedule = RetrySchedule.AGENT
    signing_secret: str = ""
    status_message: str | None = None
    accepts_work_orders: bool = True
    contact_policy: ContactPolicy = ContactPolicy.OPEN
    heartbeat_ms: int = 0
    created_ms: int = 0
    updated_ms: int = 0
    deleted_ms: int = 0


class RegisterRequest(Struct, kw_only=True):
    """Body of `POST /api/agents`."""

    name: str
    type: str = "agent"
    endpoint: str | None = None
    capabilities: list[str] = field(default_factory=list)
    status: str = "active"
    max_concurrent_jobs: int = 10
    accepts: list[str] | None = None
    allow_from: list[str] | None = None
    ordered: bool = False
    retry_schedule: str = "agent"
    signing_secret: str | None = None
    status_message: str | None = None
    accepts_work_orders: bool = True
    contact_policy: str = "open"


class AgentView(Struct, kw_only=True):
    """An agent as the HTTP contract shows it; secrets only in the reply to its registration."""

    id: str
    name: str
    type: str
    endpoint: str | None
    capabilities: list[str]
    status: str
    max_concurrent_jobs: int
    is_online: bool
    heartbeat_at: datetime | None
    created_at: datetime
    updated_at: datetime
    accepts: list[str] | None = None
    allow_from: list[str] | None = None
    ordered: bool = False
    retry_schedule: str = "agent"
    status_message: str | None = None
    accepts_work_orders: bool = True
    contact_policy: str = "open"


class RegisteredAgent(AgentView, kw_only=True):
    """Reply to a registration: the agent and, this once, its secrets."""

    api_key: str
    signing_secret: str
