"""What is forgotten when its time is over, in batches; one shard's owner does it for the deployment.

Idempotency keys are, when they are a day old. API keys are, 30 days after they were revoked or expired: until
then they are listed, so that whoever looks sees what became of them. A forgotten one is not known: 401, as
before.
"""

import asyncio
from collections.abc import Awaitable, Callable

from broker.store import idempotency, keys
from broker.store.pool import Pool
from broker.telemetry import logs, metrics
from schema.errors import BrokerError
from schema.limits import KEYS_KEPT_MS


class Forgetting:
    """Forgets one kind of rows every `round_s`. `some` deletes the next of them and returns how many, 0 when
    none is left; `job` is what that is called in the log and the metrics."""

    def __init__(self, job: str, some: Callable[[], Awaitable[int]], *, round_s: float) -> None:
        self._some = some
        self._round_s = round_s
        self._failed = f"{job}.not_forgotten"
        self._forgotten = metrics.KEPT.child(job=job)

    async def run(self) -> None:
        """Forget until cancelled, whatever Postgres does."""
        while True:
            try:
                await self.forget()
            except BrokerError as error:
                logs.warning(self._failed, reason=error.message)
            await asyncio.sleep(self._round_s)

    async def forget(self) -> int:
        """Delete every row whose time is over; return how many. Raises: StoreUnavailable."""
        forgotten = 0
        while gone := await self._some():
            forgotten += gone
            self._forgotten.inc(gone)
        return forgotten


def of_idempotency_keys(pool: Pool, *, now_ms: Callable[[], int]) -> Forgetting:
    """Return the job for idempotency keys."""
    return Forgetting("idempotency", lambda: idempotency.forget(pool, now_ms=now_ms()), round_s=60.0)


def of_api_keys(pool: Pool, *, now_ms: Callable[[], int]) -> Forgetting:
    """Return the job for API keys that work no more."""
    return Forgetting(
        "keys", lambda: keys.forget(pool, ended_before_ms=now_ms() - KEYS_KEPT_MS), round_s=3_600.0
    )
