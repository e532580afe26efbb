"""Heartbeats: an agent says that it is there, through whichever door."""

from contextlib import suppress

from broker.gateway.services import Services
from broker.store import agents as stored_agents
from schema.errors import Unavailable


async def beat(services: Services, agent_id: str) -> int:
    """Note that the agent is there; return when that was, in ms.

    The first heartbeat after a silence is written through to Postgres, so that lists of who is online show
    the agent at once; the keeper writes the others, many at a time.

    Raises: StreamsUnavailable, StreamsFull.
    """
    before = (await services.presence.last([agent_id])).get(agent_id, 0)
    at_ms = await services.presence.heartbeat(agent_id)
    if at_ms - before > services.settings.presence_online_ms:
        with suppress(Unavailable):
            await stored_agents.save_heartbeats(services.pool, {agent_id: at_ms})
    return at_ms
