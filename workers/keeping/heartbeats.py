"""Heartbeats on their way into Postgres: what was heard and is not stored yet.

One number per agent, whatever happens, so Postgres may be away for as long as it likes. Nothing hangs on
this memory: who takes the shard over reads all of presence from Redis again, and storing a heartbeat twice
is harmless.
"""

import asyncio
from collections.abc import Mapping
from itertools import islice
from typing import Final

from broker.store import agents
from broker.store.pool import Pool
from broker.telemetry import logs, metrics
from schema.errors import StoreUnavailable

SAVE_S: Final = 2.0
SAVE_AGENTS_MAX: Final = 1_000
"""Rows per statement: it holds their locks for a few milliseconds only."""

_UNAVAILABLE: Final = metrics.POSTGRES_ERRORS.child(kind="unavailable")


class Heartbeats:
    """The unsaved heartbeats of one shard."""

    def __init__(self, pool: Pool, *, shard: int) -> None:
        self._pool = pool
        self._shard = shard
        self._unsaved: dict[str, int] = {}
        self._away = False

    def add(self, heard: Mapping[str, int]) -> None:
        """Take over signs of life (agent -> ms)."""
        for agent_id, at_ms in heard.items():
            self._unsaved[agent_id] = max(at_ms, self._unsaved.get(agent_id, 0))

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
        """Store everything heard so far. Raises: StoreUnavailable; what was not stored is kept."""
        while self._unsaved:
            batch = dict(islice(self._unsaved.items(), SAVE_AGENTS_MAX))
            await agents.save_heartbeats(self._pool, batch)
            for agent_id, at_ms in batch.items():
                # Heard of again while we waited for Postgres: that is still to be saved.
                if self._unsaved[agent_id] == at_ms:
                    del self._unsaved[agent_id]

    def _note_away(self, error: StoreUnavailable) -> None:
        _UNAVAILABLE.inc()
        if not self._away:
            logs.warning(
                "heartbeats.store_away", shard=self._shard, waiting=len(self._unsaved), reason=error.message
            )
        self._away = True

    def _note_back(self) -> None:
        if self._away:
            logs.event("heartbeats.saved_again", shard=self._shard)
        self._away = False
