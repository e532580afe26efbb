"""API keys that were revoked or have expired are forgotten after 30 days; one shard's owner does it for all.

Until then they are listed, so that whoever looks sees what became of them. A forgotten key is not known: 401,
as before.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from broker.store import keys
from broker.store.pool import Pool
from broker.telemetry import logs, metrics
from schema.errors import BrokerError
from schema.limits import KEYS_KEPT_MS

ROUND_S: Final = 3_600.0

_FORGOTTEN: Final = metrics.KEPT.child(job="keys")


class OldKeys:
    """Forgets the keys of a deployment."""

    def __init__(self, pool: Pool, *, now_ms: Callable[[], int], kept_ms: int = KEYS_KEPT_MS) -> None:
        self._pool = pool
        self._now_ms = now_ms
        self._kept_ms = kept_ms

    async def run(self) -> None:
        """Forget until cancelled, whatever Postgres does."""
        while True:
            try:
                await self.forget()
            except BrokerError as error:
                logs.warning("keys.not_forgotten", reason=error.message)
            await asyncio.sleep(ROUND_S)

    async def forget(self) -> int:
        """Delete every key that ended long enough ago; return how many. Raises: StoreUnavailable."""
        forgotten = 0
        while gone := await keys.forget(self._pool, ended_before_ms=self._now_ms() - self._kept_ms):
            forgotten += gone
            _FORGOTTEN.inc(gone)
        return forgotten
