"""Agents that leave: returns what waits for those deleted, deletes those that have drained.

The row in Postgres says who is leaving and when to look next; what waits lies in Redis. A look may be cut off
at any point and done again, by two keepers at once too: an entry of a mailbox ends once, by whoever takes it
out, and rows change under guards. A deleted agent's mailboxes are looked at again and again for some minutes,
ever less often, because a router that has not heard of the deletion may still put something there; each look
also says anew that the agent is gone, should the first word have been lost.

What is being posted at the moment of a look may still succeed. Its message has been returned then, and stays
so on record: the first end counts. Open work orders and contacts of the agent are the affair of their own
subjects, which see that it is gone.

The owner of shard 0 does it for the whole deployment.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from broker.store import departures
from broker.store.departures import Departing
from broker.store.pool import Pool
from broker.streams.connection import Connection
from broker.streams.departure import count_waiting, return_all
from broker.streams.registry import announce
from broker.streams.revocation import say_revoked
from broker.telemetry import logs, metrics
from schema.errors import StoreUnavailable, StreamsFull
from schema.limits import DEPARTURE_WATCH_MS

LOOK_S: Final = 0.5
AWAY_S: Final = 2.0
"""Wait while Postgres is away, or Redis at its memory limit."""
AT_ONCE_MAX: Final = 100
"""Agents per look; the next look follows at once where there are more."""
GRACE_MS: Final = 1_000
"""From the end of a drain to the first look at the mailboxes, so that every worker has heard."""
AGAIN_MS: Final = 1_000
"""The first looks follow each other by this; later ones by the time since the deletion."""

_RETURNED: Final = metrics.KEPT.child(job="departed")
_UNAVAILABLE: Final = metrics.POSTGRES_ERRORS.child(kind="unavailable")


class Departures:
    """Looks after the agents that leave a deployment."""

    def __init__(
        self,
        pool: Pool,
        *,
        shards: int,
        now_ms: Callable[[], int],
        watch_ms: int = DEPARTURE_WATCH_MS,
    ) -> None:
        self._pool = pool
        self._shards = shards
        self._now_ms = now_ms
        self._watch_ms = watch_ms

    async def run(self, connection: Connection) -> None:
        """Look until cancelled. Raises: StreamsUnavailable."""
        while True:
            try:
                pause_s = 0.0 if await self.look(connection) == AT_ONCE_MAX else LOOK_S
            except (StoreUnavailable, StreamsFull) as error:
                if isinstance(error, StoreUnavailable):
                    _UNAVAILABLE.inc()
                logs.warning("departures.put_off", reason=error.message)
                pause_s = AWAY_S
            await asyncio.sleep(pause_s)

    async def look(self, connection: Connection) -> int:
        """Look at everybody whose time has come; return how many.

        Raises: StoreUnavailable, StreamsUnavailable, StreamsFull.
        """
        now_ms = self._now_ms()
        leaving = await departures.due(self._pool, now_ms=now_ms, limit=AT_ONCE_MAX)
        for one in leaving:
            if one.deleted_ms:
                again_ms = await self._return(connection, one, now_ms)
            elif one.drains_until_ms:
                again_ms = await self._drain(connection, one, now_ms)
            else:
                again_ms = None  # an operator has called it back
            await departures.looked(self._pool, one.id, again_ms=again_ms, now_ms=now_ms)
        return len(leaving)

    async def _return(self, connection: Connection, one: Departing, now_ms: int) -> int | None:
        """End what waits for a deleted agent, of which its senders are told; return when to look again."""
        count = await return_all(connection, one.id, shards=self._shards, now_ms=now_ms)
        if count:
            _RETURNED.inc(count)
            logs.event("agent.returned", agent=one.id, messages=count)
        # Last, because it needs memory, which the first may have freed.
        await announce(connection, one.id)
        age_ms = now_ms - one.deleted_ms
        if age_ms >= self._watch_ms:
            logs.event("agent.departed", agent=one.id)
            return None
        return now_ms + max(AGAIN_MS, min(age_ms, self._watch_ms - age_ms))

    async def _drain(self, connection: Connection, one: Departing, now_ms: int) -> int:
        """Delete an agent that has drained, or had its time; return when to look again."""
        left = await count_waiting(connection, one.id, shards=self._shards)
        if left and now_ms < one.drains_until_ms:
            return now_ms + AGAIN_MS
        look_ms = now_ms + GRACE_MS
        revoked = await departures.delete(
            self._pool, one.id, now_ms=now_ms, look_ms=look_ms, only_draining=True
        )
        if revoked is not None:
            logs.event("agent.drained", agent=one.id, left=left)
            await announce(connection, one.id)
            if revoked:
                await say_revoked(connection, revoked)
        return look_ms
