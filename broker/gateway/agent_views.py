"""How agents are shown: with the freshest heartbeat, and to strangers without what may be a secret."""

from collections.abc import Sequence
from datetime import datetime
from urllib.parse import urlsplit

from broker.gateway.call import Principal
from broker.gateway.services import Services
from schema.agent import Agent, AgentView
from schema.errors import Unavailable
from schema.limits import HEARTBEAT_BEHIND_MS_MAX
from schema.times import from_ms


async def views_of(services: Services, principal: Principal, agents: Sequence[Agent]) -> list[AgentView]:
    """Return agents as this principal may see them; heartbeats are in Redis first."""
    now_ms, online_ms = services.now_ms(), services.settings.presence_online_ms
    try:
        heard = await services.presence.last([agent.id for agent in agents])
    except Unavailable:
        # The record is behind by up to this: nobody is taken for offline because of it.
        heard, now_ms = {}, now_ms - HEARTBEAT_BEHIND_MS_MAX
    return [
        view_of(agent, principal, heard_ms=heard.get(agent.id, 0), online_ms=online_ms, now_ms=now_ms)
        for agent in agents
    ]


def view_of(
    agent: Agent, principal: Principal, *, online_ms: int, now_ms: int, heard_ms: int = 0
) -> AgentView:
    """Return an agent as this principal may see it."""
    heartbeat_ms = max(agent.heartbeat_ms, heard_ms)
    return AgentView(
        id=agent.id,
        name=agent.name,
        type=agent.type,
        endpoint=_shown_endpoint(agent, principal),
        capabilities=list(agent.capabilities),
        status=agent.status.value,
        max_concurrent_jobs=agent.max_concurrent_jobs,
        is_online=now_ms - heartbeat_ms < online_ms,
        heartbeat_at=_moment(heartbeat_ms),
        created_at=from_ms(agent.created_ms),
        updated_at=from_ms(agent.updated_ms),
        accepts=None if agent.accepts is None else list(agent.accepts),
        allow_from=None if agent.allow_from is None else list(agent.allow_from),
        ordered=agent.ordered,
        retry_schedule=agent.retry_schedule.value,
        status_message=agent.status_message,
        accepts_work_orders=agent.accepts_work_orders,
        contact_policy=agent.contact_policy.value,
        drains_until=_moment(agent.drains_until_ms),
        endpoint_status=_endpoint_status(agent),
        endpoint_disabled_at=_moment(agent.endpoint_disabled_ms),
        endpoint_disabled_reason=None if agent.endpoint_fault is None else agent.endpoint_fault.value,
        endpoint_failing_since=_moment(agent.endpoint_failing_ms),
        max_pushes_per_second=agent.max_pushes_per_second,
        inbox_messages_max=agent.inbox_messages_max,
        inbox_bytes_max=agent.inbox_bytes_max,
    )


def without_query(endpoint: str) -> str:
    """Return scheme, host and path of an endpoint: its query often holds a token."""
    parts = urlsplit(endpoint)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def _shown_endpoint(agent: Agent, principal: Principal) -> str | None:
    if agent.endpoint is None or principal.is_operator or principal.agent_id == agent.id:
        return agent.endpoint
    return without_query(agent.endpoint)


def _endpoint_status(agent: Agent) -> str | None:
    if agent.endpoint is None:
        return None
    if agent.endpoint_fault is not None:
        return "disabled"
    return "failing" if agent.endpoint_failing_ms else "active"


def _moment(at_ms: int) -> datetime | None:
    return from_ms(at_ms) if at_ms > 0 else None
