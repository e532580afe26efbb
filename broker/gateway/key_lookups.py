"""Looking keys up in the record, several at a time: agents that only send a heartbeat now and then come with
keys nobody remembers, and a query each is most of what such a request costs (a third of it, measured).

A look-up begins after it was asked for, so what it returns is no older than the question.
"""

from collections.abc import Sequence
from typing import Final

from broker.store import keys as stored_keys
from broker.store.keys import StoredKey
from broker.store.pool import Pool
from broker.streams.sharing import Shared

AT_ONCE: Final = 2
"""Two queries, so that a slow one holds up less."""
APART_S: Final = 0.005
"""At 3,000 keys a second some 15 share a query."""
KEYS_MAX: Final = 500


class KeyLookups:
    """Looks keys up for many callers."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._shared = Shared(self._look, apart_s=APART_S, at_once=AT_ONCE, together=KEYS_MAX)

    async def find(self, key_id: str) -> StoredKey | None:
        """Return a key, also an expired or revoked one, or None. Raises: StoreUnavailable."""
        return await self._shared.ask(key_id)

    async def _look(self, key_ids: Sequence[str]) -> dict[str, StoredKey]:
        return await stored_keys.find_all(self._pool, key_ids)
