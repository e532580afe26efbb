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
    noted = await services.beats.beat(agent_id)
    if noted.at_ms - noted.before_ms > services.settings.presence_online_ms:
        with suppress(Unavailable):
            await stored_agents.save_heartbeats(services.pool, {agent_id: noted.at_ms})
    return noted.at_ms
