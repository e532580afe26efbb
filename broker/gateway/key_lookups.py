"""Looking keys up in the record, several at a time: agents that only send a heartbeat now and then come with
keys nobody remembers, and a query each is most of what such a request costs (a third of it, measured).

A look-up begins after it was asked for, so what it returns is no older than the question.
"""

import asyncio
from typing import Final

from broker.store import keys as stored_keys
from broker.store.keys import StoredKey
from broker.store.pool import Pool
from broker.streams.owed import owed

UNDER_WAY_MAX: Final = 2
"""Queries at once; what is asked for meanwhile shares the next. Two, so that a slow one holds up less."""
APART_S: Final = 0.005
"""A query begins no sooner after the last: at 3,000 keys a second some 15 share one. Who comes after a pause
is not held up."""
KEYS_MAX: Final = 500


class KeyLookups:
    """Looks keys up for many callers."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._waiting: dict[str, asyncio.Future[StoredKey | None]] = {}
        # Not a TaskGroup: a query outlives the call that began it, and fails only those that wait for it.
        self._tasks: set[asyncio.Task[None]] = set()
        self._began_s = -APART_S
        self._later: asyncio.TimerHandle | None = None

    async def find(self, key_id: str) -> StoredKey | None:
        """Return a key, also an expired or revoked one, or None. Raises: StoreUnavailable."""
        found = self._waiting.get(key_id)
        if found is None:
            found = self._waiting[key_id] = asyncio.get_running_loop().create_future()
            self._begin()
        # Shielded: a caller that goes away must not take it from another that waits for the same.
        return await asyncio.shield(found)

    def _begin(self) -> None:
        if not self._waiting or self._later is not None or len(self._tasks) >= UNDER_WAY_MAX:
            return
        loop = asyncio.get_running_loop()
        if loop.time() < self._began_s + APART_S:
            self._later = loop.call_at(self._began_s + APART_S, self._begin_now)
        else:
            self._begin_now()

    def _begin_now(self) -> None:
        self._later = None
        loop = asyncio.get_running_loop()
        self._began_s = loop.time()
        batch = {key_id: self._waiting.pop(key_id) for key_id in list(self._waiting)[:KEYS_MAX]}
        task = loop.create_task(self._look(batch))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        self._begin()

    async def _look(self, batch: dict[str, asyncio.Future[StoredKey | None]]) -> None:
        with owed(batch.values()):
            found = await stored_keys.find_all(self._pool, list(batch))
            for key_id, answer in batch.items():
                answer.set_result(found.get(key_id))
