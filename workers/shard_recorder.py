"""The ledger of one shard on its way into Postgres: read, fold, write, cut, and tell who waits.

Order, and why: the transaction commits first; then receipts go out, because what they say is true whoever
owns the shard; then the ledger is cut up to what was committed. A crash in between repeats the batch, which
is harmless. While Postgres is away the ledger is the buffer: the batch in hand is tried again, nothing is
cut.

A transaction is never cancelled: stopping is a flag that is looked at between steps.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from typing import Final, Protocol

from msgspec import Struct

from broker.core.bounce import counted_as
from broker.core.fold import Rows, fold
from broker.store import partitions
from broker.store.pool import Pool
from broker.store.salvage import Saved, save
from broker.streams.ledger import LedgerEntry
from broker.streams.notifications import EVERY_GATEWAY
from broker.streams.ownership import Lease
from broker.telemetry import logs, metrics
from schema.errors import Fenced, StoreUnavailable
from schema.ledger import Receipt
from schema.message import Status
from workers.ledger_batch import Batch, Linger, ReadSize

BLOCK_MS: Final = 500
"""How long an idle read waits: also how late, at most, an idle recorder notices that it should stop."""
BACKOFF_S: Final = 0.2
BACKOFF_S_MAX: Final = 5.0
LAG_S: Final = 1.0
LOGGED_IDS_MAX: Final = 10

_RECORDED: Final = metrics.MESSAGES.child(stage="record", outcome="recorded")
_QUARANTINED: Final = metrics.MESSAGES.child(stage="record", outcome="quarantined")
_SET_ASIDE: Final = metrics.QUARANTINED.child()
_BAD: Final = (Status.FAILED, Status.EXPIRED)
_SECONDS: Final = metrics.RECORD_SECONDS.child()
_EVENTS: Final = metrics.RECORD_EVENTS.child()
_UNAVAILABLE: Final = metrics.POSTGRES_ERRORS.child(kind="unavailable")
_REFUSED: Final = metrics.POSTGRES_ERRORS.child(kind="data")
_FENCED: Final = metrics.FENCED.child(trade="record")


class Ledger(Protocol):
    """What is needed of `broker.streams.ledger.LedgerReader`."""

    async def read(self, shard: int, after: str, *, count: int, block_ms: int = 0) -> list[LedgerEntry]: ...

    async def cut(self, shard: int, last_id: str, owner: str) -> int: ...

    async def lag(self, shard: int, *, now_ms: int) -> tuple[int, int]: ...


Tell = Callable[[list[tuple[str, Receipt]], Collection[str]], Awaitable[None]]
"""Sends receipts, (gateway, receipt), and word of record to these agents."""


class RecordRules(Struct, frozen=True):
    """What the deployment decides about recording."""

    retention_days: int
    linger_ms: int


class ShardRecorder:
    """Records one shard while its lease is held."""

    def __init__(
        self,
        lease: Lease,
        pool: Pool,
        rules: RecordRules,
        *,
        now_ms: Callable[[], int],
        lagging: Callable[[int, int, int], None],
    ) -> None:
        self._lease = lease
        self._pool = pool
        self._rules = rules
        self._now_ms = now_ms
        self._lagging = lagging
        self._lag_due_s = 0.0
        self._stopping = asyncio.Event()

    @property
    def is_stopping(self) -> bool:
        return self._stopping.is_set()

    def stop(self) -> None:
        """Ask `run` to return when the batch in hand is done."""
        self._stopping.set()

    async def run(self, ledger: Ledger, tell: Tell) -> None:
        """Record until stopped. Raises: StreamsUnavailable, Fenced; nothing is lost, run again."""
        # What is committed has been cut off, so the ledger begins with what is not.
        after, size, linger = "0-0", ReadSize(), Linger(self._rules.linger_ms)
        while not self.is_stopping:
            began_s = time.monotonic()
            batch = await self._gather(ledger, after, size, linger)
            if not batch.is_empty:
                if not await self._record(ledger, tell, batch):
                    return
                after = batch.last_id
            linger.learn(len(batch.events), (time.monotonic() - began_s) * 1000)
            await self._measure_lag(ledger)

    async def _gather(self, ledger: Ledger, after: str, size: ReadSize, linger: Linger) -> Batch:
        """Read a batch: what there is, and what comes while it lingers."""
        batch, shard = Batch(), self._lease.shard
        began_s = 0.0
        while True:
            asked = size.entries
            entries = await ledger.read(
                shard, batch.last_id or after, count=asked, block_ms=BLOCK_MS if batch.is_empty else 0
            )
            if entries:
                size.learn(entries)
                batch.add(entries)
            if batch.is_empty or batch.is_full or self.is_stopping:
                return batch
            if len(entries) == asked:
                continue  # There is more at once.
            now_s = time.monotonic()
            began_s = began_s or now_s
            left_s = began_s + (linger.awaited_ms if batch.is_awaited else linger.ms) / 1000 - now_s
            if left_s <= 0:
                return batch
            await self.pause(min(left_s, linger.look_ms / 1000))

    async def _record(self, ledger: Ledger, tell: Tell, batch: Batch) -> bool:
        """Commit a batch, tell, cut. False: stopped while Postgres was away, and nothing is lost by it."""
        rows = fold(batch.events, shard=self._lease.shard)
        saved = await self._commit(ledger, rows)
        if saved is None:
            return False
        _EVENTS.observe(len(batch.events))
        refused = self._report(saved)
        _RECORDED.inc(len(rows.messages) - len(refused))
        _SET_ASIDE.inc(len(rows.quarantine))
        for row in rows.messages:
            if row.status in _BAD:
                metrics.DEAD_LETTERS.child(reason=counted_as(row.reason)).inc()
        receipts = [
            (gateway, Receipt(id, "recorded", progress=rows.progress.get(id)))
            for gateway, id in rows.waiting
            if id not in refused
        ]
        # Which gateway waits for a reply is not written in the reply.
        receipts += [
            (EVERY_GATEWAY, Receipt(answered, "replied", reply))
            for answered, reply in dict.fromkeys(rows.replies)
            if reply not in refused
        ]
        if receipts or rows.pending:
            await tell(receipts, rows.pending)
        await self._cut(ledger, batch.last_id)
        return True

    async def _commit(self, ledger: Ledger, rows: Rows) -> Saved | None:
        """Write until it is committed; None when stopped while Postgres was away."""
        backoff_s = BACKOFF_S
        while True:
            started_s = time.monotonic()
            try:
                saved = await self._save(rows)
            except StoreUnavailable as error:
                _UNAVAILABLE.inc()
                logs.warning("record.store_away", shard=self._lease.shard, reason=error.message)
            else:
                _SECONDS.observe(time.monotonic() - started_s)
                return saved
            await self._measure_lag(ledger)
            await self.pause(backoff_s)
            if self.is_stopping:
                return None
            backoff_s = min(backoff_s * 2, BACKOFF_S_MAX)

    async def _save(self, rows: Rows) -> Saved:
        now_ms = self._now_ms()
        kept = partitions.kept(partitions.day_of(now_ms), self._rules.retention_days)
        return await save(self._pool, rows, kept=kept, shard=self._lease.shard, now_ms=now_ms)

    async def _cut(self, ledger: Ledger, last_id: str) -> None:
        try:
            await ledger.cut(self._lease.shard, last_id, self._lease.value)
        except Fenced:
            _FENCED.inc()
            raise

    def _report(self, saved: Saved) -> set[str]:
        """Count and log what Postgres refused; return the ids of the messages among it."""
        shard = self._lease.shard
        if saved.missing:
            ids = saved.missing[:LOGGED_IDS_MAX]
            logs.warning("record.messages_missing", shard=shard, count=len(saved.missing), ids=ids)
        for _, fault in saved.refused[:LOGGED_IDS_MAX]:
            logs.warning("record.row_refused", shard=shard, code=fault.code, reason=fault.message)
        refused = saved.refused_messages
        _REFUSED.inc(len(saved.refused))
        _QUARANTINED.inc(len(refused))
        return refused

    async def _measure_lag(self, ledger: Ledger) -> None:
        now_s = time.monotonic()
        if now_s >= self._lag_due_s:
            self._lag_due_s = now_s + LAG_S
            entries, age_ms = await ledger.lag(self._lease.shard, now_ms=self._now_ms())
            self._lagging(self._lease.shard, entries, age_ms)

    async def pause(self, seconds: float) -> None:
        """Wait for a while, or until told to stop."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
