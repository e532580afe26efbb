"""The recorder process: copies the ledgers of the shards it holds leases for into Postgres.

One task per shard: while one waits for Postgres the other folds (two shards on a machine keep both busy),
and a shard whose ledger holds something odd holds up no other. Tasks are never cancelled while they may be
in a transaction; a shard whose lease was lost finishes its batch, which is harmless, and finds its cut
fenced.
"""

import asyncio
from functools import partial
from typing import Final

from broker.settings import Settings
from broker.store.pool import Pool, open_pool
from broker.streams.clock import ServerClock
from broker.streams.connection import open_connection
from broker.streams.keys import Keys
from broker.streams.ledger import LedgerReader
from broker.streams.link import Link
from broker.streams.notifications import publish_recorded
from broker.streams.ownership import Lease
from broker.telemetry import logs, metrics
from schema.errors import BrokerError
from workers.runtime import Process, freeze, run_role
from workers.shard_recorder import BACKOFF_S, BACKOFF_S_MAX, RecordRules, ShardRecorder
from workers.tenancy import Tenancy

TRADE: Final = "record"
POOL_SIZE_MAX: Final = 8
"""Transactions at once: more than this only wait for one another's fsync."""

_LAG_ENTRIES: Final = metrics.LEDGER_LAG_ENTRIES.child()
_LAG_SECONDS: Final = metrics.LEDGER_LAG_SECONDS.child()


class Recorder:
    """The tenant of the `record` trade. `run` lives as long as the process."""

    def __init__(
        self, redis_url: str, pool: Pool, rules: RecordRules, *, name: str, shards: int, clock: ServerClock
    ) -> None:
        self._redis_url = redis_url
        self._pool = pool
        self._rules = rules
        self._name = name
        self._shards = shards
        self._clock = clock
        self._group: asyncio.TaskGroup | None = None
        self._working: dict[int, tuple[ShardRecorder, asyncio.Task[None]]] = {}
        self._lags: dict[int, tuple[int, int]] = {}

    async def run(self, stopped: asyncio.Event) -> None:
        """Let shards be recorded until `stopped`; every shard must have been stopped by then."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            await stopped.wait()

    async def start(self, lease: Lease) -> None:
        """Begin to record a shard, after what an earlier lease for it left running."""
        assert self._group is not None
        recorder = ShardRecorder(
            lease, self._pool, self._rules, now_ms=self._clock.now_ms, lagging=self._lagging
        )
        earlier = self._working.get(lease.shard)
        task = self._group.create_task(self._serve(recorder, lease, earlier[1] if earlier else None))
        self._working[lease.shard] = recorder, task

    async def stop(self, lease: Lease, *, gracefully: bool) -> None:
        """Stop recording a shard; gracefully: return when its batch in hand is committed and cut."""
        recorder, task = self._working[lease.shard]
        recorder.stop()
        self._lags.pop(lease.shard, None)
        self._show_lag()
        if gracefully:
            # Not cancelled with the waiter: a transaction is finished, whoever has stopped waiting for it.
            await asyncio.shield(asyncio.wait((task,)))

    async def _serve(self, recorder: ShardRecorder, lease: Lease, earlier: asyncio.Task[None] | None) -> None:
        """Record a shard until it is stopped, on a new connection after each failure."""
        if earlier is not None:
            await asyncio.wait((earlier,))
        backoff_s = BACKOFF_S
        while not recorder.is_stopping:
            try:
                async with await open_connection(
                    self._redis_url, name=f"{self._name}-{lease.shard}", key=Keys(lease.shard).ledger
                ) as connection:
                    ledger = LedgerReader(connection, shards=self._shards)
                    backoff_s = BACKOFF_S
                    await recorder.run(ledger, partial(publish_recorded, connection))
            except BrokerError as error:
                logs.warning("record.shard_failed", shard=lease.shard, error=error)
            except Exception as error:  # the top of a worker loop: a bug here must not end the other shards
                logs.error("record.shard_broken", shard=lease.shard, error=error)
            else:
                return
            await recorder.pause(backoff_s)
            backoff_s = min(backoff_s * 2, BACKOFF_S_MAX)

    def _lagging(self, shard: int, entries: int, age_ms: int) -> None:
        self._lags[shard] = entries, age_ms
        self._show_lag()

    def _show_lag(self) -> None:
        _LAG_ENTRIES.set(sum(entries for entries, _ in self._lags.values()))
        _LAG_SECONDS.set(max((age_ms for _, age_ms in self._lags.values()), default=0) / 1000)


def main(settings: Settings) -> int:
    """Run a recorder until it is told to stop."""
    return run_role("recorder", settings, _work)


async def _work(process: Process) -> None:
    settings = process.settings
    link = Link(settings.redis_url, name=process.name)
    pool = await open_pool(
        settings.database_url, size=min(settings.shards, POOL_SIZE_MAX), application_name=process.name
    )
    rules = RecordRules(settings.message_retention_days, settings.record_linger_ms)
    recorder = Recorder(
        settings.redis_url, pool, rules, name=process.name, shards=settings.shards, clock=process.clock
    )
    tenancy = Tenancy(
        link,
        process.clock,
        trade=TRADE,
        process=process.name,
        shards=settings.shards,
        lease_ms=settings.lease_ms,
        tenant=recorder,
    )
    freeze()
    released = asyncio.Event()
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(recorder.run(released))
            await tenancy.run(process.stopping)
            released.set()
    finally:
        await link.close()
        await pool.aclose()
