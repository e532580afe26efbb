"""Bodies of the HTTP contract that are neither a message nor an agent.

Gateway and client both speak them; nothing else of the broker does.
"""

from datetime import datetime

from msgspec import Raw, Struct


class FaultView(Struct, kw_only=True):
    """One thing wrong with one field of a request."""

    field: str
    message: str


class ErrorBody(Struct, kw_only=True, omit_defaults=True):
    """What went wrong, for programs (`code`) and for people (`message`)."""

    code: str
    message: str
    field: str | None = None
    request_id: str | None = None
    retry_after_s: int | None = None
    details: list[FaultView] | None = None


class ErrorReply(Struct, kw_only=True):
    """The body of every reply that is not a 2xx."""

    error: ErrorBody


class HeartbeatReply(Struct, kw_only=True):
    """Reply to `POST /api/agents/{id}/heartbeat`."""

    agent_id: str
    heartbeat_at: datetime
    is_online: bool


class BatchResult(Struct, kw_only=True, omit_defaults=True):
    """What became of one message of a batch: its id, or why it was refused."""

    id: str | None = None
    error: ErrorBody | None = None


class BatchReply(Struct, kw_only=True, omit_defaults=True):
    """Reply to `POST /api/messages/batch`, in the order of the request."""

    results: list[BatchResult]
    durability: str | None = None


class RouteView(Struct, kw_only=True):
    """Why a message went to its agent. `route` is JSON `null` when its sender named the recipient."""

    message_id: str
    to_agent_id: str | None
    status: str
    status_reason: str | None
    route: Raw


class HealthReply(Struct, kw_only=True):
    """Reply to `/healthz`."""

    status: str


class ReadyReply(Struct, kw_only=True):
    """Reply to `/readyz`: `ok`, or a sentence on what is missing, per check."""

    status: str
    checks: dict[str, str]
