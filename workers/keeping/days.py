"""The days of the record: partitions made a week ahead, those beyond the retention dropped.

The owner of shard 0 does it for the whole deployment. Two that believe to be that owner do no harm: making
is serialised by Postgres, and dropping what is gone fails and is tried again.
"""

import asyncio
from collections.abc import Callable
from datetime import date, timedelta
from typing import Final

from broker.store import partitions
from broker.store.pool import Pool
from broker.telemetry import logs, metrics
from schema.errors import BrokerError

ROUND_S: Final = 3_600.0
RETRY_S: Final = 1.0
RETRY_S_MAX: Final = 60.0
"""A partition that a long query still reads cannot be dropped before it ends."""

_CHANGED: Final = metrics.KEPT.child(job="partitions")
_AHEAD: Final = metrics.PARTITIONS_AHEAD.child()


class Days:
    """Keeps the partitions of a deployment."""

    def __init__(self, pool: Pool, *, retention_days: int, now_ms: Callable[[], int]) -> None:
        self._pool = pool
        self._retention_days = retention_days
        self._now_ms = now_ms
        self._last: date | None = None

    async def run(self) -> None:
        """Keep the days until cancelled, whatever Postgres does."""
        # Asked at every scrape: it shrinks by itself while no round succeeds, and that is what to alarm on.
        _AHEAD.read = self._days_ahead
        retry_s = RETRY_S
        try:
            while True:
                try:
                    await self.keep()
                except BrokerError as error:
                    logs.warning("partitions.failed", reason=error.message, ahead=int(self._days_ahead()))
                    await asyncio.sleep(retry_s)
                    retry_s = min(retry_s * 2, RETRY_S_MAX)
                else:
                    retry_s = RETRY_S
                    await asyncio.sleep(ROUND_S)
        finally:
            _AHEAD.read = None

    async def keep(self) -> None:
        """Make and drop what today asks for. Raises: StoreUnavailable, DataFault."""
        today = self._today()
        made = await partitions.ensure_ahead(self._pool, today)
        self._last = today + timedelta(days=await partitions.days_ahead(self._pool, today))
        _CHANGED.inc(made)
        dropped = await partitions.drop_older(self._pool, today, self._retention_days)
        _CHANGED.inc(len(dropped))
        logs.event("partitions.kept", made=made, dropped=dropped, ahead=int(self._days_ahead()))

    def _days_ahead(self) -> float:
        return -1 if self._last is None else (self._last - self._today()).days

    def _today(self) -> date:
        return partitions.day_of(self._now_ms())
