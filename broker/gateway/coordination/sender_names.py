"""Names of the agents that messages came from: one query for all that a page lacks, and a cache before it.

Agents that are gone keep their name here: what they sent still lies in inboxes. A name is believed for half a
minute; it is for people to read, nothing is decided by it.
"""

import time
from collections.abc import Iterable
from typing import Final

from broker.store import inbox as stored_inbox
from broker.store.pool import Pool

FRESH_S: Final = 30.0
NAMES_CACHED_MAX: Final = 50_000
"""Beyond this the whole cache is dropped: the next pages look up again."""


class SenderNames:
    """Finds names by id."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._cached: dict[str, tuple[str, float]] = {}

    async def of(self, ids: Iterable[str]) -> dict[str, str]:
        """Return the names of those of the agents that are, or were, registered. Raises: StoreUnavailable."""
        now_s = time.monotonic()
        names: dict[str, str] = {}
        missing = []
        for agent_id in set(ids):
            name, until_s = self._cached.get(agent_id, ("", 0.0))
            if until_s > now_s:
                names[agent_id] = name
            else:
                missing.append(agent_id)
        if missing:
            found = await stored_inbox.sender_names(self._pool, missing)
            if len(self._cached) + len(found) > NAMES_CACHED_MAX:
                self._cached.clear()
            self._cached |= {agent_id: (name, now_s + FRESH_S) for agent_id, name in found.items()}
            names |= found
        return names
