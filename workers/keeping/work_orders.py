"""Work orders by the clock: overdue ones expire, free ones are offered, orphans end, old ones are forgotten.

Each order is a transaction of its own, decided on its locked row, so that being cut off, done twice or done
beside a gateway changes nothing. An order that has just been changed by somebody else is left to the next
round. Nothing depends on being in time: from its deadline on an order refuses whatever is asked of it.

The owner of shard 0 does it for the whole deployment.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from broker.core.work_order_notices import Particulars
from broker.store import work_order_changes as changes
from broker.store import work_orders
from broker.store.pool import Pool
from broker.store.work_order_changes import Wish
from broker.telemetry import logs, metrics
from schema.errors import BrokerError, Conflict, NotFound
from schema.message import Envelope
from schema.work_order import Action

ROUND_S: Final = 1.0
AWAY_S: Final = 2.0
"""Wait while Postgres is away."""
OVERDUE_MAX: Final = 100
OFFERED_MAX: Final = 64
"""Orders per round; the next round follows at once where there are more."""
SWEEP_EVERY: Final = 30
"""Rounds between looks for orphans and for what is older than the retention."""
FORGOTTEN_MAX: Final = 500
DAY_MS: Final = 24 * 3600 * 1000

_FORGOTTEN: Final = metrics.KEPT.child(job="work_orders")
_ORPHANED: Final = Particulars(reason="its agent has left")


class WorkOrders:
    """Looks after the work orders of a deployment. `post`: publishes messages that are in the outbox."""

    def __init__(
        self,
        pool: Pool,
        *,
        post: Callable[[list[Envelope]], Awaitable[None]],
        retention_days: int,
        now_ms: Callable[[], int],
    ) -> None:
        self._pool = pool
        self._post = post
        self._retention_days = retention_days
        self._now_ms = now_ms
        self._away = False

    async def run(self) -> None:
        """Keep them until cancelled; Postgres being away only delays it."""
        rounds = 0
        while True:
            try:
                more = await self.expire() == OVERDUE_MAX
                more = await self.offer() == OFFERED_MAX or more
                if rounds % SWEEP_EVERY == 0:
                    await self.end_orphans()
                    await self.forget()
                rounds += 1
            except BrokerError as error:
                if not self._away:
                    logs.warning("work_orders.put_off", reason=error.message)
                self._away = True
                await asyncio.sleep(AWAY_S)
            else:
                self._away = False
                await asyncio.sleep(0 if more else ROUND_S)

    async def expire(self) -> int:
        """End orders whose deadline has passed; return how many. Raises: StoreUnavailable, DataFault."""
        overdue = await work_orders.overdue(self._pool, OVERDUE_MAX)
        return sum([await self._end(order_id, Wish(action=Action.EXPIRE)) for order_id in overdue])

    async def offer(self) -> int:
        """Offer free orders to agents that can take them by now; return how many orders were looked at.

        Raises: StoreUnavailable, DataFault.
        """
        for looked in range(OFFERED_MAX):
            try:
                envelopes = await changes.offer_next(self._pool)
            except Conflict:
                continue
            if envelopes is None:
                return looked
            await self._post(envelopes)
        return OFFERED_MAX

    async def end_orphans(self) -> int:
        """Cancel orders one of whose sides is no longer there; return how many. Raises: as `expire`."""
        orphans = await work_orders.orphaned(self._pool, OVERDUE_MAX)
        wish = Wish(action=Action.CANCEL, said=_ORPHANED)
        return sum([await self._end(order_id, wish) for order_id in orphans])

    async def forget(self) -> int:
        """Delete orders that ended before the retention, with their history; return how many.

        Raises: StoreUnavailable.
        """
        before_ms, forgotten = self._now_ms() - self._retention_days * DAY_MS, 0
        while gone := await work_orders.delete_finished(self._pool, before_ms, FORGOTTEN_MAX):
            forgotten += gone
            _FORGOTTEN.inc(gone)
        return forgotten

    async def _end(self, order_id: str, wish: Wish) -> bool:
        try:
            changed = await changes.change(self._pool, order_id, wish)
        except (Conflict, NotFound):
            return False  # somebody was faster
        await self._post(changed.envelopes)
        logs.event("work_order.ended", work_order_id=order_id, status=changed.view.status)
        return True
