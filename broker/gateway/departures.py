"""DELETE of an agent: what the gateway decides and says; the keeper does the rest."""

from typing import Final, Literal

from msgspec import Struct

from broker.gateway.access import authorize
from broker.gateway.agent_changes import addressed
from broker.gateway.call import Call, Reply, Scope
from broker.gateway.reading import Faults
from broker.gateway.services import Services
from broker.store import departures as stored_departures
from broker.streams.departure import count_waiting
from schema.agent import Agent, AgentStatus, Departure
from schema.errors import Forbidden, NotFound, Unavailable
from schema.limits import DRAIN_S_DEFAULT, DRAIN_S_MAX
from schema.times import from_ms

LOOK_MS: Final = 1_000
"""By then most of what is being posted has ended, and every worker has heard; then mailboxes are emptied."""


class DeleteAgent(Struct):
    """Query of `DELETE /api/agents/{id}`."""

    mode: Literal["bounce", "drain"] = "bounce"
    timeout_s: int = DRAIN_S_DEFAULT


def check_delete(query: DeleteAgent, faults: Faults) -> None:
    """Note everything wrong with how an agent is to leave."""
    if not 0 <= query.timeout_s <= DRAIN_S_MAX:
        faults.add("timeout_s", f"must be 0 to {DRAIN_S_MAX}")


async def delete(call: Call[None, DeleteAgent]) -> Reply:
    """Delete an agent. `bounce`: it is gone at once, its name is free, its keys work no more; what waits for
    it ends `failed` with `recipient_deleted`, and each sender is told by a message of type `error`. `drain`:
    it is `disabled`, so nothing new is taken; what waits is delivered, for `timeout_s` at most, and then the
    rest goes back and the agent is deleted. Until then an operator may call it back: PATCH its status."""
    services = call.services
    agent_id = await addressed(call)
    authorize(call.principal, Scope.AGENTS_UPDATE, agent_id)
    agent = await services.agents.record(agent_id)
    if agent is None:
        raise NotFound("no such agent")
    if call.query.mode == "drain" and _is_switched_off(agent) and not call.principal.is_operator:
        raise Forbidden("an operator has switched it off: draining would deliver what is held back")
    drains_until_ms = await _drain(call, agent_id) if call.query.mode == "drain" else 0
    if not drains_until_ms:
        await _delete(services, agent_id)
    services.agents.forget(agent_id)
    await services.announce(agent_id)
    body = Departure(
        agent_id=agent_id,
        name=agent.name,
        mode=call.query.mode,
        status="draining" if drains_until_ms else "deleted",
        waiting=await _waiting(services, agent_id),
        drains_until=from_ms(drains_until_ms) if drains_until_ms else None,
    )
    return Reply(status=202, body=body)


def _is_switched_off(agent: Agent) -> bool:
    return agent.status is AgentStatus.DISABLED and not agent.drains_until_ms


async def _drain(call: Call[None, DeleteAgent], agent_id: str) -> int:
    """Let the agent drain; return until when. Raises: NotFound, StoreUnavailable."""
    services = call.services
    now_ms = services.now_ms()
    until_ms = now_ms + call.query.timeout_s * 1000
    if not await stored_departures.drain(
        services.pool, agent_id, until_ms=until_ms, now_ms=now_ms, look_ms=now_ms + LOOK_MS
    ):
        raise NotFound("no such agent")
    return until_ms


async def _delete(services: Services, agent_id: str) -> None:
    """Delete the agent; its keys stop working here now, and elsewhere as soon as it is heard."""
    now_ms = services.now_ms()
    revoked = await stored_departures.delete(services.pool, agent_id, now_ms=now_ms, look_ms=now_ms + LOOK_MS)
    if revoked is None:
        raise NotFound("no such agent")
    await services.keys_changed(revoked)


async def _waiting(services: Services, agent_id: str) -> int | None:
    try:
        return await count_waiting(await services.link.get(), agent_id, shards=services.settings.shards)
    except Unavailable:
        return None
