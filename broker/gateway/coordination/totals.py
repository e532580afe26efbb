"""How much there is in an inbox, and when not to count it again.

A count that reached its bound says "more than 10,000", takes milliseconds and is as good a moment later: it
is believed for two seconds, so that paging through a huge inbox, or polling it, does not count on every page.
An exact total is never remembered: a message marked as read is gone from the next one.
"""

import time
from typing import Final

from broker.store import inbox as stored_inbox
from broker.store.inbox import InboxFilter, Total
from broker.store.pool import Pool
from schema.message import Status

FRESH_S: Final = 2.0
REMEMBERED_MAX: Final = 1_000
"""Beyond this all are forgotten: the next pages count again."""

_Key = tuple[str, Status | None, str | None]


class Totals:
    """Counts what matches."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._bounds: dict[_Key, tuple[Total, float]] = {}

    async def of(self, wanted: InboxFilter, *, now_ms: int) -> Total:
        """Return how many messages match, whatever the page. Raises: StoreUnavailable."""
        key = (wanted.agent_id, wanted.status, wanted.message_type)
        now_s = time.monotonic()
        known = self._bounds.get(key)
        if known is not None and known[1] > now_s:
            return known[0]
        total = await stored_inbox.total(self._pool, wanted, now_ms=now_ms)
        if total.is_lower_bound:
            if len(self._bounds) >= REMEMBERED_MAX:
                self._bounds.clear()
            self._bounds[key] = (total, now_s + FRESH_S)
        return total
