"""Scheduled messages: moved into their ingress lane when their time has come, by the server's clock.

Every call to the script also says when the next one is due, so a look costs nothing in between. A message
scheduled meanwhile for an earlier moment is found at the next look, at most LOOK_S later.
"""

import asyncio
import time
from typing import Final

from broker.streams.connection import Connection
from broker.streams.keys import Keys
from broker.streams.ownership import Lease
from broker.streams.scripts import WAKE
from broker.telemetry import logs, metrics
from schema.errors import StreamsFull
from schema.limits import DUE_BATCH_MAX

LOOK_S: Final = 0.25
"""The latest a message can be that was scheduled for earlier than the one we sleep for."""
REST_S: Final = 0.001
"""Never shorter, or a clock a fraction of a millisecond ahead of the server's would make us spin."""
FULL_S: Final = 1.0
"""Wait while Redis is at its memory limit: what is under way has to drain first."""

_WOKEN: Final = metrics.KEPT.child(job="scheduled")
_SECONDS: Final = metrics.SCRIPT_SECONDS.child(script="wake")


class Schedule:
    """Wakes the scheduled messages of one shard."""

    def __init__(self, keys: Keys, lease: Lease) -> None:
        self._keys = (
            keys.owner(lease.trade),
            keys.later,
            keys.later_messages,
            *keys.ingress.values(),
        )
        self._lease = lease

    async def run(self, connection: Connection) -> None:
        """Wake until cancelled. Raises: Fenced, StreamsUnavailable."""
        while True:
            try:
                pause_s = await self.look(connection)
            except StreamsFull:
                logs.warning("schedule.streams_full", shard=self._lease.shard)
                pause_s = FULL_S
            await asyncio.sleep(pause_s)

    async def look(self, connection: Connection) -> float:
        """Wake everything that is due; return for how many seconds nothing more will be."""
        while True:
            started_s = time.monotonic()
            moved, next_ms, now_ms = await connection.evaluate(
                WAKE, self._keys, self._lease.value, DUE_BATCH_MAX
            )
            _SECONDS.observe(time.monotonic() - started_s)
            _WOKEN.inc(moved)
            if moved < DUE_BATCH_MAX:
                break
        if next_ms is None:
            return LOOK_S
        wait_s: float = (float(next_ms) - now_ms) / 1000
        return min(LOOK_S, max(REST_S, wait_s))
