"""`GET /api/v1/messaging/stats`: of an agent, or of the whole deployment."""

from datetime import timedelta
from typing import Final

from msgspec import Struct

from broker.gateway.access import acting_agent
from broker.gateway.call import Call, Reply
from broker.gateway.reading import Faults
from broker.gateway.services import Services
from broker.gateway.statistics.summary import summarize
from broker.store import statistics
from broker.store.partitions import day_of
from schema.errors import Unavailable
from schema.limits import STATISTICS_DAYS_MAX, STATISTICS_MINUTES
from schema.statistics import StatisticsReply, WorkOrderStatistics
from schema.times import from_ms

MINUTE_MS: Final = 60_000


class StatisticsQuery(Struct):
    """Query of `GET /api/v1/messaging/stats`. `days`: messages created today and on the days before."""

    agent_id: str | None = None
    days: int | None = None


def check_query(query: StatisticsQuery, faults: Faults) -> None:
    """Note everything wrong with the query."""
    if query.days is not None and not 1 <= query.days <= STATISTICS_DAYS_MAX:
        faults.add("days", f"must be 1 to {STATISTICS_DAYS_MAX}")


async def show(call: Call[None, StatisticsQuery]) -> Reply:
    """Show how messages fared: how many there are by status and type, how fast and how surely they are
    delivered, why some are not, how many wait, and what happened in each minute of the last hour.

    Of an agent: what it received, and under `sent` what it sent. Without `agent_id` an operator sees the
    whole deployment, an agent's own key itself. Everything since the beginning is counted, also what
    retention has dropped since; with `days`, only messages created today and on the days before.
    """
    services = call.services
    agent_id = await _whose(call)
    now_ms = services.now_ms()
    today = day_of(now_ms)
    days = call.query.days
    first = statistics.EVER if days is None else today - timedelta(days=days - 1)
    counted = await statistics.read(
        services.pool,
        agent_id or statistics.DEPLOYMENT,
        since=first,
        minutes_since_ms=(now_ms // MINUTE_MS - STATISTICS_MINUTES + 1) * MINUTE_MS,
    )
    received = summarize(counted, "all" if agent_id is None else "received", now_ms=now_ms)
    reply = StatisticsReply(
        **{name: getattr(received, name) for name in received.__struct_fields__},
        agent_id=agent_id,
        generated_at=from_ms(now_ms),
        since=None if counted.first_day is None else max(counted.first_day, first),
        complete=counted.complete,
        sent=None if agent_id is None else summarize(counted, "sent", now_ms=now_ms),
        work_orders=await _work_orders(services, agent_id),
        agents_online=await _agents_online(services),
    )
    return Reply(body=reply)


async def _whose(call: Call[None, StatisticsQuery]) -> str | None:
    """Return the agent that is meant; None: an operator means the deployment.

    Raises: NotFound for an agent that does not exist, AgentMismatch.
    """
    named = call.query.agent_id
    if call.principal.agent_id is not None:
        return await acting_agent(call, named)
    return await call.services.agents.named_if_given(named or call.claimed_agent)


async def _agents_online(services: Services) -> int | None:
    """Return how many there are; None while Redis, which alone knows, is away."""
    try:
        return await services.presence.count_online(services.settings.presence_online_ms)
    except Unavailable:
        return None


async def _work_orders(services: Services, agent_id: str | None) -> WorkOrderStatistics:
    if agent_id is None:
        by_status = await statistics.orders(services.pool)
        return WorkOrderStatistics(total=sum(by_status.values()), by_status=by_status)
    roles = await statistics.orders_of_agent(services.pool, agent_id)
    by_status = {
        status: roles.worker.get(status, 0) + roles.requester.get(status, 0)
        for status in {**roles.worker, **roles.requester}
    }
    return WorkOrderStatistics(
        total=sum(by_status.values()),
        by_status=by_status,
        as_worker=roles.worker,
        as_requester=roles.requester,
    )
