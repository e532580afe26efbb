"""Statistics kept: what changed is folded into the sums, what is over is merged or forgotten.

The owner of one shard does it for the whole deployment. Two that believe to be that owner take turns, by a
lock in Postgres; cut off at any point nothing is lost or counted twice, because each step is one transaction.
"""

import asyncio
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Final

from broker.store import statistics
from broker.store.partitions import day_of
from broker.store.pool import Pool
from broker.telemetry import logs, metrics
from schema.errors import BrokerError
from schema.limits import STATISTICS_MINUTES_KEPT_MS

FOLD_S: Final = 5.0
FOLD_MESSAGES_MAX: Final = 60_000
"""Changes per transaction: what is noted in five seconds at 12,000/s. Every fold touches the sums of all
agents with traffic, so fewer and larger ones are cheaper (measured with 1,000 agents: 10 us a message by
10,000 at a time, 7 by 40,000)."""
FOLD_MESSAGES_MIN: Final = 100
"""After a failure half as much is tried: a machine so busy that a fold exceeds the time of a statement must
not try the same one for ever."""
TIDY_S: Final = 300.0
BACKOFF_S_MAX: Final = 60.0

_FOLDED: Final = metrics.KEPT.child(job="statistics")


class Statistics:
    """Keeps the statistics of a deployment."""

    def __init__(self, pool: Pool, *, retention_days: int, now_ms: Callable[[], int]) -> None:
        self._pool = pool
        self._retention_days = retention_days
        self._now_ms = now_ms
        self._tidy_at_s = 0.0
        self._is_moving = True
        self._messages = FOLD_MESSAGES_MAX

    async def run(self) -> None:
        """Keep the statistics until cancelled, whatever Postgres does."""
        pause_s = FOLD_S
        while True:
            try:
                await self.fold()
                if self._is_moving:
                    # A batch a turn: folding must not wait for millions of rows.
                    self._is_moving = await statistics.move_deliveries(self._pool) > 0
                if time.monotonic() >= self._tidy_at_s:
                    await self.tidy()
                    self._is_moving = True  # A keeper of an earlier release may have written more.
                    self._tidy_at_s = time.monotonic() + TIDY_S
            except BrokerError as error:
                logs.warning("statistics.not_kept", reason=error.message)
                pause_s = min(pause_s * 2, BACKOFF_S_MAX)
            else:
                pause_s = FOLD_S
            await asyncio.sleep(pause_s)

    async def fold(self) -> int:
        """Fold all there is; return of how many changes that was. Raises: StoreUnavailable."""
        total = 0
        while True:
            since_ms = self._now_ms() - STATISTICS_MINUTES_KEPT_MS
            try:
                folded = await statistics.fold(self._pool, messages=self._messages, minutes_since_ms=since_ms)
            except BrokerError:
                self._messages = max(FOLD_MESSAGES_MIN, self._messages // 2)
                raise
            if folded is None or not folded.deltas:
                return total
            self._messages = min(FOLD_MESSAGES_MAX, self._messages * 2)
            total += folded.messages
            _FOLDED.inc(folded.messages)

    async def tidy(self) -> None:
        """Forget minutes that are over; merge days whose messages are dropped. Raises: StoreUnavailable."""
        now_ms = self._now_ms()
        while await statistics.forget_minutes(self._pool, now_ms - STATISTICS_MINUTES_KEPT_MS):
            pass
        before = day_of(now_ms) - timedelta(days=self._retention_days)
        while await statistics.merge_days(self._pool, before):
            pass
