"""Presence: heartbeats, what agents say about themselves, and who is there."""

from datetime import datetime

from msgspec import UNSET, Struct

from broker.core.presence import presence_state
from broker.gateway.call import Call, NoQuery, Reply
from broker.gateway.coordination.caller import AGENT, required_agent
from broker.gateway.heartbeats import beat, beat_together
from broker.gateway.reading import Faults
from broker.gateway.registration import check_label
from broker.gateway.services import Services
from broker.store import agents as stored_agents
from broker.store import presence as stored_presence
from broker.store import work_orders as stored_work_orders
from schema import limits
from schema.agent import Agent
from schema.errors import AgentMismatch, NotFound, Unavailable
from schema.ids import is_id
from schema.presence import (
    Heartbeats,
    PresenceState,
    PresenceUpdate,
    PresenceView,
    SignOfLife,
    SignsOfLife,
)
from schema.times import from_ms


class CallerQuery(Struct):
    """Query of an operation whose caller may have to say as whom it acts."""

    agent_id: str | None = None


class Seen(Struct, frozen=True):
    """When an agent was last heard of (0: never), and what that amounts to."""

    heartbeat_ms: int
    state: PresenceState

    @property
    def at(self) -> datetime | None:
        return from_ms(self.heartbeat_ms) if self.heartbeat_ms > 0 else None

    @property
    def is_online(self) -> bool:
        return self.state is PresenceState.ONLINE


def check_update(update: PresenceUpdate, faults: Faults) -> None:
    """Note everything wrong with what an agent says about itself."""
    if isinstance(update.status_message, str):
        check_label("status_message", update.status_message, limits.STATUS_MESSAGE_CHARS_MAX, faults)
    jobs = update.max_concurrent_jobs
    if jobs is not UNSET and not 1 <= jobs <= limits.CONCURRENT_JOBS_MAX:
        faults.add("max_concurrent_jobs", f"must be 1 to {limits.CONCURRENT_JOBS_MAX}")


async def heartbeat(call: Call[None, CallerQuery]) -> Reply:
    """Say that the agent is there. It shows as online for 60 s, then as away, after 5 minutes as gone; to be
    called every 30 to 60 s by an agent that makes no other calls, which count as well."""
    agent_id = await required_agent(call, call.query.agent_id, field=AGENT)
    at_ms = await beat(call.services, agent_id)
    return Reply(body=SignOfLife(agent_id=agent_id, heartbeat_at=from_ms(at_ms), is_online=True))


def check_heartbeats(request: Heartbeats, faults: Faults) -> None:
    """Note everything wrong with a list of agents that are there."""
    if not 1 <= len(request.agent_ids) <= limits.HEARTBEATS_MAX:
        faults.add("agent_ids", f"must name 1 to {limits.HEARTBEATS_MAX} agents")
        return
    request.agent_ids = list(dict.fromkeys(agent_id.lower() for agent_id in request.agent_ids))
    for index, agent_id in enumerate(request.agent_ids):
        if not is_id(agent_id):
            faults.add(f"agent_ids[{index}]", "must be a UUID")


async def heartbeats(call: Call[Heartbeats, NoQuery]) -> Reply:
    """Say of many agents at once that they are there: for whoever runs them, with an operator's key; an
    agent's own key may name that agent. What each costs is a hundredth of a heartbeat by itself. The ids are
    not looked up: one that nobody has is forgotten again after a week."""
    own = call.principal.agent_id
    if own is not None and call.body.agent_ids != [own]:
        raise AgentMismatch("this key belongs to another agent")
    at_ms = await beat_together(call.services, call.body.agent_ids)
    return Reply(body=SignsOfLife(agents=len(call.body.agent_ids), heartbeat_at=from_ms(at_ms)))


async def change(call: Call[PresenceUpdate, CallerQuery]) -> Reply:
    """Say how the agent is: any of `status_message` (null clears it), `accepts_work_orders` and
    `max_concurrent_jobs`; what is left out stays. Counts as a heartbeat."""
    services = call.services
    agent_id = await required_agent(call, call.query.agent_id, field=AGENT)
    await beat(services, agent_id)
    if call.body != PresenceUpdate():
        if not await stored_presence.change(services.pool, agent_id, call.body, now_ms=services.now_ms()):
            raise NotFound("no such agent")
        services.agents.forget(agent_id)
        await services.announce(agent_id)
    return Reply(body=await _view(services, agent_id))


async def show(call: Call[None, NoQuery]) -> Reply:
    """Show whether an agent is there, what it says about itself, and how many work orders it is busy with.

    `state`: `online` for 60 s after it was last heard of, `away` for 5 minutes, then `gone`.
    """
    return Reply(body=await _view(call.services, call.path["agent_id"]))


async def seen(services: Services, agent: Agent) -> Seen:
    """Return when an agent was last heard of: Redis knows first, Postgres while Redis is away."""
    try:
        heard_ms = (await services.presence.last([agent.id])).get(agent.id, 0)
        now_ms = await services.presence.now_ms()
    except Unavailable:
        # The record is behind by up to this: nobody is taken for away because of it.
        heard_ms, now_ms = 0, services.now_ms() - limits.HEARTBEAT_BEHIND_MS_MAX
    heartbeat_ms, settings = max(heard_ms, agent.heartbeat_ms), services.settings
    state = presence_state(
        heartbeat_ms,
        now_ms,
        online_ms=settings.presence_online_ms,
        silent_after_ms=settings.silent_after_ms,
    )
    return Seen(heartbeat_ms, state)


async def _view(services: Services, reference: str) -> PresenceView:
    agent = await stored_agents.get(services.pool, reference) if _is_sound(reference) else None
    if agent is None:
        raise NotFound("no such agent")
    heard = await seen(services, agent)
    return PresenceView(
        agent_id=agent.id,
        name=agent.name,
        is_online=heard.is_online,
        state=heard.state,
        last_heartbeat_at=heard.at,
        status_message=agent.status_message,
        accepts_work_orders=agent.accepts_work_orders,
        max_concurrent_jobs=agent.max_concurrent_jobs,
        active_jobs=await stored_work_orders.active_jobs(services.pool, agent.id),
    )


def _is_sound(reference: str) -> bool:
    """Tell whether Postgres can be asked for an agent called so."""
    return 0 < len(reference) <= limits.AGENT_NAME_CHARS_MAX and "\x00" not in reference
