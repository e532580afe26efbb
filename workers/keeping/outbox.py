"""Relays what lies in the outbox: messages of transactions whose process died, or could not reach Redis.

Every row is claimed, published, removed. Cut off anywhere in between, the row is there and its claim runs
out: it is relayed again under the same id. `broker.store.outbox` says why that is sent once.

The owner of shard 0 does it for the whole deployment; two at once share the rows.
"""

import asyncio
from typing import Final

from broker.store import outbox
from broker.store.outbox import Waiting
from broker.store.pool import Pool
from broker.streams.ingress import Publisher
from broker.telemetry import logs, metrics
from schema.errors import BrokerError, Unavailable
from schema.message import Envelope

ROUND_S: Final = 0.5
AWAY_S: Final = 2.0
"""Wait while a store is away."""
BATCH_MAX: Final = 64
CLAIM_MS: Final = 10_000
"""Longer than publishing a batch takes, tries and all; a keeper that died delays its rows by this."""

_RELAYED: Final = metrics.KEPT.child(job="outbox")
_WAITING: Final = metrics.OUTBOX_MESSAGES.child()
_AGE: Final = metrics.OUTBOX_AGE_SECONDS.child()


class OutboxRelay:
    """Empties the outbox of a deployment."""

    def __init__(self, pool: Pool, publisher: Publisher, *, dedup_window_ms: int) -> None:
        self._pool = pool
        self._publisher = publisher
        self._certain_ms = dedup_window_ms // 2
        self._away = False

    async def run(self) -> None:
        """Relay until cancelled; a store being away only delays it."""
        while True:
            try:
                full = await self.relay() == BATCH_MAX
                await self._show()
            except BrokerError as error:
                if not self._away:
                    logs.warning("outbox.put_off", reason=error.message)
                self._away = True
                await asyncio.sleep(AWAY_S)
            else:
                self._away = False
                await asyncio.sleep(0 if full else ROUND_S)

    async def relay(self) -> int:
        """Relay one batch; return how many rows it had.

        Raises: StoreUnavailable, StreamsUnavailable, StreamsFull.
        """
        batch = await outbox.claim(self._pool, BATCH_MAX, for_ms=CLAIM_MS)
        if batch:
            unpublished = await self._unpublished(batch)
            if unpublished:
                await self._publisher.publish_many(unpublished)
            await outbox.remove(self._pool, [one.row for one in batch])
            _RELAYED.inc(len(unpublished))
            logs.event("outbox.relayed", messages=len(unpublished), recorded=len(batch) - len(unpublished))
        return len(batch)

    async def post(self, envelopes: list[Envelope]) -> None:
        """Publish messages that have just been put into the outbox; those that cannot be stay there."""
        if not envelopes:
            return
        try:
            await self._publisher.publish_many(envelopes)
            await outbox.remove(self._pool, [outbox.row_of(envelope) for envelope in envelopes])
        except Unavailable:
            return  # `relay` finds them

    async def _unpublished(self, batch: list[Waiting]) -> list[Envelope]:
        """Return what is to be published: of rows so old that the streams may have forgotten them, only those
        that have not been recorded."""
        old = [one.envelope for one in batch if one.age_ms >= self._certain_ms]
        known = await outbox.recorded(self._pool, old)
        return [one.envelope for one in batch if one.envelope.id not in known]

    async def _show(self) -> None:
        waiting, age_s = await outbox.depth(self._pool)
        _WAITING.set(waiting)
        _AGE.set(age_s)
