"""Notices that Redis lost what it held (FLUSHALL, a restart without its append-only file), and says so.

The rest mends itself: leases are taken anew, scripts are loaded again, directories are read again, groups of
native readers are made again at the start. What was in flight is lost, and only people can say what of it to
send again: the rows that stay `pending` in Postgres say what it was.

The owner of shard 0 looks for the whole deployment.
"""

import asyncio
from typing import Final

from broker.streams.connection import Connection
from broker.streams.deployment import restore
from broker.telemetry import logs, metrics
from schema.errors import Conflict, StreamsFull

LOOK_S: Final = 1.0

_EMPTIED: Final = metrics.REDIS_EMPTIED.child()


class Emptied:
    """Looks after what is fixed when a deployment is created: it is never deleted, so it is gone last."""

    def __init__(self, *, shards: int) -> None:
        self._shards = shards

    async def run(self, connection: Connection) -> None:
        """Look until cancelled. Raises: StreamsUnavailable."""
        while True:
            try:
                await self.look(connection)
            except StreamsFull as error:
                logs.warning("deployment.not_restored", reason=error.message)
            except Conflict as error:
                logs.error("deployment.changed", reason=error.message)
            await asyncio.sleep(LOOK_S)

    async def look(self, connection: Connection) -> None:
        """Look once. Raises: Conflict, StreamsFull, StreamsUnavailable."""
        if await restore(connection, self._shards):
            _EMPTIED.inc()
            logs.error(
                "streams.emptied",
                reason="Redis has lost what it held; messages in flight are lost",
                remedy="see docs/operating.md: Redis was emptied",
            )
