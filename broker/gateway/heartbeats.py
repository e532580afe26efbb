"""Heartbeats: an agent says that it is there, through whichever door."""

from collections.abc import Iterable
from contextlib import suppress

from broker.gateway.services import Services
from broker.store import agents as stored_agents
from schema.errors import Unavailable


async def beat(services: Services, agent_id: str) -> int:
    """Note that the agent is there; return when that was, in ms.

    The first heartbeat after a silence is written through to Postgres (`broker.gateway.comebacks`).

    Raises: StreamsUnavailable, StreamsFull.
    """
    noted = await services.beats.beat(agent_id)
    services.signs_of_life.forget(agent_id)  # heard as a call as well: noting it again would be half the cost
    if noted.at_ms - noted.before_ms > services.settings.presence_online_ms:
        await services.comebacks.note(agent_id, at_ms=noted.at_ms)
    return noted.at_ms


async def beat_together(services: Services, agent_ids: Iterable[str]) -> int:
    """Note that all of these agents are there, as `beat` does for each; return when that was, in ms.

    Raises: StreamsUnavailable, StreamsFull.
    """
    ids = tuple(agent_ids)
    at_ms = await services.presence.now_ms()
    before_ms = await services.presence.renew(ids, at_ms=at_ms)
    earliest_ms = at_ms - services.settings.presence_online_ms
    back = {agent_id: at_ms for agent_id in ids if before_ms.get(agent_id, 0) < earliest_ms}
    if back:
        with suppress(Unavailable):
            await stored_agents.save_heartbeats(services.pool, back)
    return at_ms
