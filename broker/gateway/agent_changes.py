"""Changes of agents: PATCH, and the rotation of signing secrets.

Order: the row is committed, what waits is handed over to whoever pushes, and only then the change is
announced. So a delivery owner that hears of an endpoint finds the mailboxes on the active set, and one that
does not live yet finds them when it takes over. Where Redis fails after the commit the reply is 503: the same
request again changes nothing more and announces it.
"""

from functools import partial
from typing import Any

from msgspec.structs import replace

from broker.gateway.access import authorize
from broker.gateway.agent_views import views_of
from broker.gateway.agents import senders_of
from broker.gateway.call import Call, NoQuery, Principal, Reply, Scope
from broker.gateway.registration import changed_by, given_in
from broker.gateway.services import Services
from broker.store import agents as stored_agents
from broker.transport.endpoint import parse_endpoint
from broker.transport.signature import new_secret
from schema.agent import Agent, AgentPatch, AgentStatus, SigningSecret
from schema.errors import Forbidden, NotFound
from schema.limits import SECRET_OVERLAP_MS
from schema.times import from_ms


async def patch(call: Call[AgentPatch, NoQuery]) -> Reply:
    """Change an agent: what is absent stays, null takes away (RFC 7396). With `endpoint` null it pulls from
    now on; given one, it is pushed what waits already. `paused`: what names it waits, nothing is pushed, and
    routing by capability skips it. `disabled`, and back from it, is the operator's."""
    services = call.services
    agent_id = await addressed(call)
    authorize(call.principal, Scope.AGENTS_UPDATE, agent_id)
    change = call.body
    if isinstance(change.endpoint, str):
        parse_endpoint(change.endpoint, services.policy)
    if isinstance(change.allow_from, list):
        change.allow_from = await senders_of(services, change.allow_from)
    changed = await stored_agents.change(
        services.pool, agent_id, partial(_applied, services, call.principal, change)
    )
    if changed is None:
        services.agents.forget(agent_id)
        raise NotFound("no such agent")
    _, after = changed
    if given_in(change):
        await _tell(services, after)
    return Reply(body=(await views_of(services, call.principal, [after]))[0])


async def rotate_secret(call: Call[None, NoQuery]) -> Reply:
    """Give the agent a new signing secret. For 24 hours pushes carry two signatures, of the old one and
    of the new one, so a receiver may change over at any moment of them."""
    services = call.services
    agent_id = await addressed(call)
    authorize(call.principal, Scope.KEYS, agent_id)
    # Before anything changes: workers that never hear would go on signing with the old one alone.
    await services.link.get()
    now_ms, secret = services.now_ms(), new_secret()
    until_ms = now_ms + SECRET_OVERLAP_MS

    def rotated(agent: Agent) -> Agent:
        return replace(
            agent,
            signing_secret=secret,
            previous_secret=agent.signing_secret,
            previous_secret_until_ms=until_ms,
            updated_ms=max(now_ms, agent.updated_ms + 1),
        )

    changed = await stored_agents.change(services.pool, agent_id, rotated)
    if changed is None:
        raise NotFound("no such agent")
    services.agents.forget(agent_id)
    # No 503 from here on: the secret is told this once.
    await services.announce(agent_id)
    body = SigningSecret(
        agent_id=agent_id, signing_secret=secret, previous_secret_valid_until=from_ms(until_ms)
    )
    return Reply(status=201, body=body)


async def addressed(call: Call[Any, Any]) -> str:  # any body, any query
    """Return the id of the agent in the path. Raises: NotFound, StoreUnavailable."""
    agent_id = await call.services.agents.find(call.path["agent_id"])
    if agent_id is None:
        raise NotFound("no such agent")
    return agent_id


def _applied(services: Services, principal: Principal, change: AgentPatch, agent: Agent) -> Agent:
    """Return the agent as it will be. Raises: Forbidden for what is not the caller's to set."""
    after = changed_by(change, agent, now_ms=services.now_ms())
    quotas = (agent.inbox_messages_max, agent.inbox_bytes_max)
    if not principal.is_operator and quotas != (after.inbox_messages_max, after.inbox_bytes_max):
        raise Forbidden("only an operator changes what an inbox may hold", field="inbox_messages_max")
    if after.status is agent.status:
        return after
    if not principal.is_operator and AgentStatus.DISABLED in (after.status, agent.status):
        raise Forbidden("only an operator disables an agent, or enables it again", field="status")
    # An agent that is leaving and is switched on again stays.
    return replace(after, drains_until_ms=0)


async def _tell(services: Services, agent: Agent) -> None:
    """Make the change known everywhere. Raises: StreamsUnavailable."""
    services.agents.forget(agent.id)
    if agent.is_pushed_to:
        await services.mailboxes.activate(agent.id)
    await services.registry.announce(agent.id)
