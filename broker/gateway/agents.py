"""Agents: register, show, list, heartbeat."""

from secrets import token_bytes
from typing import Any, Final

from msgspec import Struct

from broker.core import keys
from broker.gateway.access import authorize
from broker.gateway.agent_views import view_of, views_of
from broker.gateway.call import AGENT_SCOPES, Call, NoQuery, Reply, Scope
from broker.gateway.heartbeats import beat
from broker.gateway.paging import LIMIT_DEFAULT, page_headers
from broker.gateway.reading import Faults
from broker.gateway.registration import agent_of
from broker.gateway.services import Services
from broker.store import agents as stored_agents
from broker.store.agents import AgentFilter
from broker.store.keys import StoredKey
from broker.transport.endpoint import parse_endpoint
from broker.transport.signature import new_secret
from schema import limits
from schema.agent import Agent, AgentStatus, AgentView, RegisteredAgent, RegisterRequest
from schema.errors import NotFound
from schema.http import HeartbeatReply
from schema.ids import is_id, new_id
from schema.times import from_ms

_STATUSES: Final = tuple(status.value for status in AgentStatus)


class ListAgents(Struct):
    """Query of `GET /api/agents`."""

    status: str | None = None
    type: str | None = None
    capability: tuple[str, ...] = ()
    online: bool | None = None
    limit: int = LIMIT_DEFAULT
    cursor: str | None = None


def check_list(query: ListAgents, faults: Faults) -> None:
    """Note everything wrong with the query of a list of agents."""
    if query.status is not None and query.status not in _STATUSES:
        faults.add("status", f"must be one of {', '.join(_STATUSES)}")
    if query.limit < 1:
        faults.add("limit", f"must be 1 to {limits.PAGE_ROWS_MAX}")
    if len(query.capability) > limits.REQUIREMENTS_MAX:
        faults.add("capability", f"at most {limits.REQUIREMENTS_MAX}")


async def register(call: Call[RegisterRequest, NoQuery]) -> Reply:
    """Register an agent. The reply holds, this once, its API key and the secret its pushes are signed with.
    Without an endpoint the agent pulls."""
    services, request = call.services, call.body
    if request.endpoint is not None:
        parse_endpoint(request.endpoint, services.policy)
    if request.allow_from is not None:
        request.allow_from = await senders_of(services, request.allow_from)
    now_ms = services.now_ms()
    agent = agent_of(
        request, agent_id=new_id(), signing_secret=request.signing_secret or new_secret(), now_ms=now_ms
    )
    minted = keys.mint(token_bytes(keys.KEY_ID_BYTES), token_bytes(keys.SECRET_BYTES))
    key = StoredKey(
        id=minted.id,
        agent_id=agent.id,
        scopes=tuple(sorted(scope.value for scope in AGENT_SCOPES)),
        hash=services.keyring.digest(minted.text),
        prefix=minted.prefix,
        created_ms=now_ms,
    )
    agent = await stored_agents.register(services.pool, agent, key)
    await services.announce(agent.id)
    view = view_of(
        agent, call.principal, online_ms=services.settings.presence_online_ms, now_ms=services.now_ms()
    )
    body = RegisteredAgent(**_fields(view), api_key=minted.text, signing_secret=agent.signing_secret)
    return Reply(status=201, body=body, headers=(("Location", f"/api/agents/{agent.id}"),))


async def show(call: Call[None, NoQuery]) -> Reply:
    """Show an agent."""
    agent = await existing(call)
    return Reply(body=(await views_of(call.services, call.principal, [agent]))[0])


async def list_(call: Call[None, ListAgents]) -> Reply:
    """List agents, those that match all that is asked for. A page may hold fewer than `limit`; there is a
    next one as long as `X-Next-Cursor` (and `Link`) say so."""
    services, query = call.services, call.query
    # Postgres is behind: it is asked for a little more, then looked at closely.
    known_ms = services.settings.presence_online_ms + limits.HEARTBEAT_BEHIND_MS_MAX
    heard_since_ms = services.now_ms() - known_ms
    page = await stored_agents.list_page(
        services.pool,
        AgentFilter(
            status=None if query.status is None else AgentStatus(query.status),
            type=query.type,
            capabilities=query.capability,
            heard_since_ms=heard_since_ms if query.online else None,
            limit=min(query.limit, limits.PAGE_ROWS_MAX),
            cursor=query.cursor,
        ),
    )
    headers = page_headers("/api/agents", _parameters(query), page.cursor)
    views = await views_of(services, call.principal, page.items)
    shown = [view for view in views if query.online is None or view.is_online is query.online]
    return Reply(body=shown, headers=headers)


async def heartbeat(call: Call[None, NoQuery]) -> Reply:
    """Say that the agent is there: it shows as online for 60 s, and routing by capability considers it."""
    services = call.services
    agent_id = await services.agents.find_or_trust(call.path["agent_id"])
    if agent_id is None:
        raise NotFound("no such agent")
    authorize(call.principal, Scope.HEARTBEAT, agent_id)
    at_ms = await beat(services, agent_id)
    return Reply(body=HeartbeatReply(agent_id=agent_id, heartbeat_at=from_ms(at_ms), is_online=True))


async def senders_of(services: Services, references: list[str]) -> list[str]:
    """Return the ids of the senders an agent allows. Raises: Rejected for names nobody has."""
    faults, found = Faults(), []
    for index, reference in enumerate(references):
        agent_id = await services.agents.find(reference)
        if agent_id is None and is_id(reference.lower()):
            agent_id = reference.lower()  # one that is registered later, or elsewhere in an import
        if agent_id is None:
            faults.add(f"allow_from[{index}]", "no agent is known by this name")
        else:
            found.append(agent_id)
    faults.raise_if_any()
    return found


async def existing(call: Call[Any, Any]) -> Agent:  # any body, any query
    """Return the agent in the path as its row is now. Raises: NotFound, StoreUnavailable."""
    reference = call.path["agent_id"]
    agent_id = await call.services.agents.find(reference)
    agent = await stored_agents.get(call.services.pool, agent_id) if agent_id is not None else None
    if agent is None:
        raise NotFound("no such agent")
    return agent


def _fields(view: AgentView) -> dict[str, Any]:  # fields have as many types
    return {name: getattr(view, name) for name in view.__struct_fields__}


def _parameters(query: ListAgents) -> list[tuple[str, str]]:
    given = [("status", query.status), ("type", query.type)]
    given += [("capability", capability) for capability in query.capability]
    if query.online is not None:
        given.append(("online", "true" if query.online else "false"))
    given.append(("limit", str(query.limit)))
    return [(name, value) for name, value in given if value is not None]
