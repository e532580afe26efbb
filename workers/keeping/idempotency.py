"""Idempotency keys older than a day are forgotten, in batches; the owner of one shard does it for all."""

import asyncio
from collections.abc import Callable
from typing import Final

from broker.store import idempotency
from broker.store.pool import Pool
from broker.telemetry import logs, metrics
from schema.errors import BrokerError

ROUND_S: Final = 60.0

_FORGOTTEN: Final = metrics.KEPT.child(job="idempotency")


class IdempotencyKeys:
    """Forgets the keys of a deployment."""

    def __init__(self, pool: Pool, *, now_ms: Callable[[], int]) -> None:
        self._pool = pool
        self._now_ms = now_ms

    async def run(self) -> None:
        """Forget until cancelled, whatever Postgres does."""
        while True:
            try:
                await self.forget()
            except BrokerError as error:
                logs.warning("idempotency.not_forgotten", reason=error.message)
            await asyncio.sleep(ROUND_S)

    async def forget(self) -> int:
        """Delete every key whose time is over; return how many. Raises: StoreUnavailable."""
        forgotten = 0
        while gone := await idempotency.forget(self._pool, now_ms=self._now_ms()):
            forgotten += gone
            _FORGOTTEN.inc(gone)
        return forgotten
