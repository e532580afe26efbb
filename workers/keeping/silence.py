"""Agents that fall silent and come back: one event each, told once by the owner of the shard.

Presence is sorted by time, so who fell silent since the last look is the span between the two looks' limits;
nobody is looked at twice. Who is silent is remembered, because a sign of life overwrites the old time.
What happened while nobody owned the shard is not told one by one.
"""

from collections.abc import Mapping
from typing import Final

from broker.streams.connection import Connection
from broker.telemetry import logs, metrics
from workers.keeping.signs import agents_of, pages

SILENT_REMEMBERED_MAX: Final = 100_000
"""Silent agents of one shard in memory (10 MB); the return of any further ones is not told."""
EVENTS_PER_LOOK_MAX: Final = 100
"""When a network fails thousands fall silent at once: beyond this only their number is told."""

_OFFLINE: Final = metrics.KEPT.child(job="offline")


class Silence:
    """Watches one shard for agents that pass the limit of silence, in either direction."""

    def __init__(self, presence_key: str, *, shard: int, silent_after_ms: int) -> None:
        self._key = presence_key
        self._shard = shard
        self._silent_after_ms = silent_after_ms
        self._limit_ms: int | None = None
        self._silent: dict[str, int] = {}

    def hear(self, heard: Mapping[str, int], *, now_ms: int) -> None:
        """Take new signs of life and tell of those that were silent until now."""
        back = {
            agent_id: self._silent[agent_id]
            for agent_id, at_ms in heard.items()
            if agent_id in self._silent and at_ms >= now_ms - self._silent_after_ms
        }
        for agent_id in back:
            del self._silent[agent_id]
        self._tell("agent.back", back, now_ms)

    async def look(self, connection: Connection, *, now_ms: int) -> None:
        """Tell who fell silent since the last look. Raises: StreamsUnavailable."""
        since_ms, limit_ms = self._limit_ms, now_ms - self._silent_after_ms
        fallen: dict[str, int] = {}
        async for page in pages(connection, self._key, from_ms=since_ms or 0, before_ms=limit_ms):
            agents = agents_of(page)
            fallen.update(agents)
            room = max(0, SILENT_REMEMBERED_MAX - len(self._silent))
            self._silent.update(list(agents.items())[:room])
        if since_ms is None:
            logs.event("presence.followed", shard=self._shard, silent=len(fallen))
        else:
            _OFFLINE.inc(len(fallen))
            self._tell("agent.silent", fallen, now_ms)
        self._limit_ms = max(limit_ms, since_ms or 0)

    def _tell(self, name: str, agents: Mapping[str, int], now_ms: int) -> None:
        for agent_id in list(agents)[:EVENTS_PER_LOOK_MAX]:
            logs.event(name, agent=agent_id, shard=self._shard, unheard_ms=now_ms - agents[agent_id])
        if len(agents) > EVENTS_PER_LOOK_MAX:
            logs.event(f"{name}_too", shard=self._shard, agents=len(agents) - EVENTS_PER_LOOK_MAX)
