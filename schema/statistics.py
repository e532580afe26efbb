"""Statistics as the HTTP contract shows them."""

from datetime import date, datetime

from msgspec import Struct


class ThroughputPoint(Struct, kw_only=True):
    """What happened in the minute that begins at `minute`."""

    minute: datetime
    accepted: int
    delivered: int
    processed: int


class MessageStatistics(Struct, kw_only=True):
    """Messages counted. `delivery_success_rate`: of those that ended, the part that ended well (0 to 1); null
    while none has ended. Delivery times: from created (or scheduled) to delivered, of messages that were not
    replayed; null while there are none. `queue_depth`: pending now. `throughput`: the last 60 minutes, the
    current one last."""

    total_messages: int
    by_status: dict[str, int]
    by_type: dict[str, int]
    delivery_success_rate: float | None
    average_delivery_ms: float | None
    p95_delivery_ms: float | None
    queue_depth: int
    failure_reasons: dict[str, int]
    throughput: list[ThroughputPoint]


class WorkOrderStatistics(Struct, kw_only=True):
    """Work orders by status: of an agent as the one who does the work and the one who asked for it."""

    total: int
    by_status: dict[str, int]
    as_worker: dict[str, int] | None = None
    as_requester: dict[str, int] | None = None


class StatisticsReply(MessageStatistics, kw_only=True):
    """Statistics of an agent (what it received; what it sent is in `sent`) or of the deployment.

    `since`: the first day counted, by when messages were created; null: nothing was ever counted. `complete`
    is false while so much is to be counted that only part of it is in here. `agents_online`: in the whole
    deployment; null while Redis is away.
    """

    agent_id: str | None
    generated_at: datetime
    since: date | None
    complete: bool
    sent: MessageStatistics | None
    work_orders: WorkOrderStatistics
    agents_online: int | None
