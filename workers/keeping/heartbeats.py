"""Heartbeats on their way into Postgres: each agent at most once a minute, with the latest sign by then.

Redis has the exact time and is asked first wherever that matters; the record is for those who read it while
Redis is away. An agent that was not stored lately is stored at once. One that was rests for a minute, and is
stored again then, if it was heard of meanwhile: so the last sign of an agent that leaves gets into the record
as well. What is stored after a rest may be as old as that, so the record is behind by up to two of them.

At most two numbers per agent, whatever happens, so Postgres may be away for as long as it likes. Nothing
hangs on this memory: who takes the shard over reads all of presence from Redis again, and storing a heartbeat
twice is harmless.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping
from itertools import islice
from typing import Final

from broker.store import agents
from broker.store.pool import Pool
from broker.telemetry import logs, metrics
from schema.errors import StoreUnavailable
from schema.limits import HEARTBEAT_STORED_EVERY_MS

SAVE_S: Final = 2.0
SAVE_AGENTS_MAX: Final = 1_000
"""Rows per statement: it holds their locks for a few milliseconds only."""

_UNAVAILABLE: Final = metrics.POSTGRES_ERRORS.child(kind="unavailable")


class Heartbeats:
    """The heartbeats of one shard that are not stored yet, and who was stored lately."""

    def __init__(self, pool: Pool, *, shard: int, now_ms: Callable[[], int]) -> None:
        self._pool = pool
        self._shard = shard
        self._now_ms = now_ms
        self._due: dict[str, int] = {}
        self._resting: dict[str, int] = {}
        """Stored lately, with what was heard since (0: nothing)."""
        self._rests: deque[tuple[int, tuple[str, ...]]] = deque()
        """Who rests until when, the first to end first."""
        self._away = False

    def add(self, heard: Mapping[str, int]) -> None:
        """Take over signs of life (agent -> ms)."""
        resting, due = self._resting, self._due
        for agent_id, at_ms in heard.items():
            known = resting if agent_id in resting else due
            if at_ms > known.get(agent_id, 0):
                known[agent_id] = at_ms

    async def run(self) -> None:
        """Save until cancelled; Postgres being away only delays it."""
        while True:
            await asyncio.sleep(SAVE_S)
            try:
                await self.save()
            except StoreUnavailable as error:
                self._note_away(error)
            else:
                self._note_back()

    async def save(self) -> None:
        """Store what is due. Raises: StoreUnavailable; what was not stored is kept."""
        now_ms = self._now_ms()
        self._wake(now_ms)
        while self._due:
            batch = dict(islice(self._due.items(), SAVE_AGENTS_MAX))
            await agents.save_heartbeats(self._pool, batch)
            for agent_id, at_ms in batch.items():
                # Heard of again while we waited for Postgres: that is stored when the rest is over.
                heard_ms = self._due.pop(agent_id)
                self._resting[agent_id] = heard_ms if heard_ms > at_ms else 0
            self._rests.append((now_ms + HEARTBEAT_STORED_EVERY_MS, tuple(batch)))

    def _wake(self, now_ms: int) -> None:
        while self._rests and self._rests[0][0] <= now_ms:
            for agent_id in self._rests.popleft()[1]:
                if heard_ms := self._resting.pop(agent_id):
                    self._due[agent_id] = heard_ms

    def _note_away(self, error: StoreUnavailable) -> None:
        _UNAVAILABLE.inc()
        if not self._away:
            logs.warning(
                "heartbeats.store_away", shard=self._shard, waiting=len(self._due), reason=error.message
            )
        self._away = True

    def _note_back(self) -> None:
        if self._away:
            logs.event("heartbeats.saved_again", shard=self._shard)
        self._away = False
