"""Opening a live session: whose it is, whether it may be, where it begins."""

from typing import Final

from msgspec import Struct

from broker.gateway.access import authorize
from broker.gateway.call import Call, Reply, Scope
from broker.gateway.channel import Channel, Kind
from broker.gateway.coordination.caller import AGENT, required_agent
from broker.gateway.known_agents import not_known
from broker.gateway.reading import Faults
from broker.gateway.realtime.answering import Answerer
from broker.gateway.realtime.cursors import FROM_START, parse_event_id
from broker.gateway.realtime.hub import ALL, Guest
from broker.gateway.realtime.session import Session
from broker.gateway.services import Services
from broker.telemetry import logs
from schema.agent import Agent
from schema.errors import HasEndpoint, NotFound, Rejected, StoreUnavailable, StreamsUnavailable
from schema.ids import new_id
from schema.limits import PREFETCH_DEFAULT, PREFETCH_MAX, WATCHED_AGENTS_MAX

WATCH: Final = "watch"


class StreamQuery(Struct):
    """Query of `GET /api/v1/messaging/stream`."""

    agent_id: str | None = None
    last_event_id: str | None = None
    watch: tuple[str, ...] = ()
    prefetch: int = PREFETCH_DEFAULT


def check_stream(query: StreamQuery, faults: Faults) -> None:
    """Note everything wrong with what is asked of a stream."""
    if not 1 <= query.prefetch <= PREFETCH_MAX:
        faults.add("prefetch", f"must be 1 to {PREFETCH_MAX}")
    if len(query.watch) > WATCHED_AGENTS_MAX:
        faults.add(WATCH, f"at most {WATCHED_AGENTS_MAX} agents; `{ALL}` watches all")


async def open_stream(call: Call[None, StreamQuery]) -> Reply:
    """Stream an agent's messages as they arrive: as Server-Sent Events, or over a WebSocket where the request
    asks to upgrade.

    Sends everything that is not acknowledged, from the start, or, with `last_event_id` (or the header
    `Last-Event-ID`), what came after that event. What is not acknowledged is sent again to the next session.
    An agent has one session: a newer one takes over. While it is open its agent is online. An agent with an
    endpoint has no stream (409): its messages are pushed.

    **Events.** `hello` (`agent_id`, `session_id`, `heartbeat_s`); `message`, whose data is the message as it
    is pushed to endpoints; `presence` of the agents in `watch` (`agent_id`, `state`, `at`); last `taken_over`
    or `closing`, with a `reason`. Acknowledge over HTTP: mark the message as read, or set its status.

    **WebSocket.** Text frames of JSON, of the same `type`s: `{"type": "message", "event_id", "message":
    {...}}`. At most `prefetch` messages are under way without an acknowledgement. A browser, which cannot set
    headers, offers the subprotocols `agent-broker` and `bearer.<key>`. A client may send:

    - `{"type": "ack", "message_id", "status", "result", "reason"}`; `status` is `delivered` (also when left
    out), `processed` or `failed`. Answer: `{"type": "acked", "message_id"}`.

    - `{"type": "send", "ref", "message": {...}}`, the message as for `POST /api/messages`. Answer:
    `{"type": "accepted", "ref", "message_id"}`: it is on disk.

    - `{"type": "reply", "message_id", "content", "ref"}`, a `response` to the sender. Answer: `accepted`.

    - `{"type": "heartbeat"}`. Answer: `{"type": "heartbeat", "at"}`.

    What is wrong with a frame is answered by `{"type": "error", "error": {...}, "ref", "message_id"}`, and
    the connection stays. It is closed with 4409 (taken over), 4401 (key revoked), 4404 (agent gone), 4410 (it
    has an endpoint now), 1012 (this gateway stops: come back), 1009 (a frame beyond 256 KiB), 1011 (our
    fault).
    """
    services, query = call.services, call.query
    if query.watch:
        authorize(call.principal, Scope.AGENTS_READ)
    agent_id = await required_agent(call, query.agent_id, field=AGENT)
    _check_agent(await _known(services, agent_id))
    watch = await _watched(services, query.watch)
    after = parse_event_id(query.last_event_id) if query.last_event_id else FROM_START
    if not services.joined:
        raise StreamsUnavailable("the streams have not been reached yet")
    session_id = new_id()
    await services.realtime.admit(agent_id, session_id)

    async def stream(channel: Channel) -> None:
        prefetch = query.prefetch if channel.kind is Kind.SOCKET else None
        session = Session(agent_id, session_id, services.mailboxes, after=after, prefetch=prefetch)
        guest = Guest(session, channel.kind, call.principal, call.authorization, watch)
        logs.event("realtime.opened", agent=agent_id, kind=channel.kind.value, session=session_id)
        await services.realtime.serve(guest, channel, Answerer(services, call.principal, session).answer)

    return Reply(stream=stream)


async def _known(services: Services, agent_id: str) -> Agent | None:
    """Return the agent. While Postgres is away who has a key is believed: what waits needs no Postgres."""
    try:
        agent = await services.agents.record(agent_id)
    except StoreUnavailable:
        return None
    if agent is None:
        raise NotFound("no such agent")
    return agent


def _check_agent(agent: Agent | None) -> None:
    if agent is not None and agent.endpoint is not None:
        raise HasEndpoint("this agent's messages are pushed to its endpoint; set that to null to pull them")


async def _watched(services: Services, references: tuple[str, ...]) -> frozenset[str]:
    """Return the ids of the agents to watch. Raises: Rejected for one that does not exist."""
    watched = set()
    for reference in references:
        found = ALL if reference == ALL else await services.agents.find(reference)
        if found is None:
            raise Rejected(f"watch: {not_known(reference)}", field=WATCH)
        watched.add(found)
    return frozenset(watched)
