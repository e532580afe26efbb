"""Agents: the record the broker keeps, and what the HTTP edge takes and shows."""

from datetime import datetime
from enum import Enum
from typing import Final

from msgspec import UNSET, Struct, UnsetType, field

from schema.message import Reason
from schema.quick import quick

SEALED: Final = "sealed:"
"""What a secret begins with that is encrypted; a usable one begins with `whsec_`."""


@quick
class AgentStatus(Enum):
    """`ACTIVE` agents get messages. `PAUSED` ones are skipped by capability; what names them waits: nothing
    is pushed. `DISABLED` ones get nothing new at all: the broker (410, or days of failures), an operator or
    their own departure has switched them off."""

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


@quick
class EndpointFault(Enum):
    """Why the broker has disabled an endpoint. `GONE`: it answered 410. `FAILING`: nothing else than failures
    for days. `refusal` is the reason with which messages for it end."""

    GONE = "gone"
    FAILING = "failing"

    @property
    def refusal(self) -> Reason:
        return Reason.GONE if self is EndpointFault.GONE else Reason.ENDPOINT_DISABLED


class Agent(Struct, kw_only=True, frozen=True):
    """An agent as every process with a directory holds it.

    `endpoint` None means the agent pulls. `accepts` None means every message type; `allow_from` None means
    every sender. `ordered`: one push in flight, a failure holds the rest. `drains_until_ms`: it is leaving;
    what waits already is delivered until then at most (0: it is not). `deleted_ms`: when it was deleted (0:
    it is not). `previous_secret`: pushes are signed with it as well until `previous_secret_until_ms`.

    `endpoint_since_ms`: when the endpoint was set, or enabled again. `endpoint_fault`: the broker has
    disabled it, at `endpoint_disabled_ms`; nothing is pushed, and what comes for it ends.
    `endpoint_failing_ms`: it does nothing but fail since then, of which its owner has had `endpoint_warned`
    warnings (0: nobody was warned). `concurrency`, `max_pushes_per_second`, `inbox_messages_max`,
    `inbox_bytes_max`: None means as the deployment says. `killed`: an operator has switched it off by a kill
    switch, which is no part of its record: directories fill it in.
    """

    id: str
    name: str
    type: str = "agent"
    endpoint: str | None = None
    capabilities: tuple[str, ...] = ()
    status: AgentStatus = AgentStatus.ACTIVE
    max_concurrent_jobs: int = 10
    concurrency: int | None = None
    max_pushes_per_second: int | None = None
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
    drains_until_ms: int = 0
    previous_secret: str = ""
    previous_secret_until_ms: int = 0
    endpoint_since_ms: int = 0
    endpoint_fault: EndpointFault | None = None
    endpoint_disabled_ms: int = 0
    endpoint_failing_ms: int = 0
    endpoint_warned: int = 0
    inbox_messages_max: int | None = None
    inbox_bytes_max: int | None = None
    killed: bool = False

    @property
    def takes_work(self) -> bool:
        """Tell whether routing by capability may choose it, as far as its record says."""
        return self.status is AgentStatus.ACTIVE and self.endpoint_fault is None and not self.killed

    @property
    def is_sealed(self) -> bool:
        """Tell whether its signing secret is encrypted with a key that this process does not have: nothing
        can be signed for it, so nothing is pushed."""
        return self.signing_secret.startswith(SEALED)

    @property
    def is_pushed_to(self) -> bool:
        """Tell whether what lies in its mailbox is pushed now, or ended where the endpoint is disabled; else
        it waits there."""
        if self.endpoint is None or self.killed or self.is_sealed:
            return False
        return self.status is AgentStatus.ACTIVE or self.drains_until_ms > 0


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
    max_pushes_per_second: int | None = None


class AgentPatch(Struct, kw_only=True):
    """Body of `PATCH /api/agents/{id}`: what is absent stays, null takes away (RFC 7396)."""

    name: str | UnsetType = UNSET
    type: str | UnsetType = UNSET
    endpoint: str | UnsetType | None = UNSET
    capabilities: list[str] | UnsetType = UNSET
    status: str | UnsetType = UNSET
    max_concurrent_jobs: int | UnsetType = UNSET
    accepts: list[str] | UnsetType | None = UNSET
    allow_from: list[str] | UnsetType | None = UNSET
    ordered: bool | UnsetType = UNSET
    retry_schedule: str | UnsetType = UNSET
    status_message: str | UnsetType | None = UNSET
    accepts_work_orders: bool | UnsetType = UNSET
    contact_policy: str | UnsetType = UNSET
    max_pushes_per_second: int | UnsetType | None = UNSET
    inbox_messages_max: int | UnsetType | None = UNSET
    inbox_bytes_max: int | UnsetType | None = UNSET
    endpoint_status: str | UnsetType = UNSET
    """Only `active`: a disabled endpoint is tried again."""
    signing_secret: str | UnsetType | None = UNSET
    """Here only to be refused: rotation keeps the old one valid for a while."""


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
    drains_until: datetime | None = None
    endpoint_status: str | None = None
    endpoint_disabled_at: datetime | None = None
    endpoint_disabled_reason: str | None = None
    endpoint_failing_since: datetime | None = None
    max_pushes_per_second: int | None = None
    inbox_messages_max: int | None = None
    inbox_bytes_max: int | None = None


class SigningSecret(Struct, kw_only=True):
    """Reply to the rotation of a signing secret: the new one, this once."""

    agent_id: str
    signing_secret: str
    previous_secret_valid_until: datetime


class Departure(Struct, kw_only=True):
    """Reply to `DELETE /api/agents/{id}`. `deleted`: it is gone, what waited goes back to its senders.
    `draining`: what waits is still delivered, until `drains_until` at most, and then it is deleted.
    `waiting`: messages in its mailboxes, as far as known at this moment."""

    agent_id: str
    name: str
    mode: str
    status: str
    waiting: int | None
    drains_until: datetime | None = None


class RegisteredAgent(AgentView, kw_only=True):
    """Reply to a registration: the agent and, this once, its secrets."""

    api_key: str
    signing_secret: str
