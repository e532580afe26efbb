"""When the last row of a run was committed.

Counting rows costs Postgres time that belongs to what is measured, so it is done only when the ledgers are
empty: the recorder cuts them after it has committed. What comes back is the moment before the count was asked
for that found everything: never too early.
"""

import asyncio
from importlib.resources import files
from time import monotonic_ns
from typing import Any, Final

from msgspec import Struct

from broker.streams.keys import Keys

LOOK_S: Final = 0.005
PATIENCE_S: Final = 30.0
"""A run that makes no progress for this long has failed."""
_COMMITTED: Final = (files("broker.bench") / "sql" / "committed.sql").read_text()


class Stuck(Exception):
    """Nothing moves any more and something is missing."""


class Committed(Struct, frozen=True):
    """Rows found: messages, those of them delivered, those of them with an attempt."""

    messages: int
    delivered: int
    attempted: int


class Commits:
    """Looks at the ledgers and, when they are empty, at the tables."""

    def __init__(self, database: Any, redis: Any, shards: int) -> None:  # neither driver types its replies
        self._database = database
        self._redis = redis
        self._ledgers = [Keys(shard).ledger for shard in range(shards)]

    async def wait(self, low_id: str, high_id: str, count: int) -> int:
        """Return when (CLOCK_MONOTONIC, ns) `count` messages and their attempts were committed.

        Raises: Stuck.
        """
        best = Committed(0, 0, 0)
        progress_ns = monotonic_ns()
        while monotonic_ns() - progress_ns < PATIENCE_S * 1e9:
            if await self._ledgers_are_empty():
                asked_ns = monotonic_ns()
                found = await self.count(low_id, high_id)
                if found.messages >= count and found.attempted >= count:
                    return asked_ns
                if found != best:
                    best, progress_ns = found, monotonic_ns()
            await asyncio.sleep(LOOK_S)
        raise Stuck(f"{count} published; in Postgres: {await self.count(low_id, high_id)}")

    async def count(self, low_id: str, high_id: str) -> Committed:
        """Count the rows of a range of message ids."""
        row = await self._database.fetchrow(_COMMITTED, low_id, high_id)
        return Committed(row["messages"], row["delivered"], row["attempted"])

    async def _ledgers_are_empty(self) -> bool:
        async with self._redis.pipeline(transaction=False) as pipeline:
            for ledger in self._ledgers:
                pipeline.xlen(ledger)
            return not any(await pipeline.execute())
