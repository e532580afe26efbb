"""The keeper process: what happens by the clock, for the shards it holds leases for.

Scheduled messages, presence into Postgres, agents that fall silent, depths of queues, and once per
deployment the days of the record. Not here: due retries, expiry and lost doorbells are the delivery owner's,
un-parking the routing owner's, the ledger's lag the recorder's.

Every job may be cut off at any point and done again by the next owner, so stopping is cancelling: a script
that was under way has run or not, and is atomic.
"""

import asyncio
from typing import Final

from broker.settings import Settings
from broker.store.pool import Pool, open_pool
from broker.streams.keys import keys_where
from broker.streams.link import Link
from broker.streams.ownership import Lease
from workers.keeping.board import Board
from workers.keeping.shard import House, KeptShard
from workers.runtime import Process, freeze, run_role
from workers.tenancy import Tenancy

TRADE: Final = "keep"
POOL_SIZE: Final = 4
"""One for the partitions, which may wait for a lock; a statement of heartbeats takes milliseconds."""
STOP_S: Final = 2.0
"""Patience with jobs that end: a statement is cancelled at the server, which may not answer."""


def main(settings: Settings) -> int:
    """Run a keeper until it is told to stop."""
    return run_role("keeper", settings, _work)


class Keeper:
    """The tenant of the `keep` trade."""

    def __init__(self, group: asyncio.TaskGroup, house: House) -> None:
        self._group = group
        self._house = house
        self._working: dict[int, asyncio.Task[None]] = {}

    async def start(self, lease: Lease) -> None:
        """Begin the jobs of a shard."""
        self._working[lease.shard] = self._group.create_task(KeptShard(lease, self._house).run())

    async def stop(self, lease: Lease, *, gracefully: bool) -> None:
        """End the jobs of a shard; gracefully: wait for their end, so that two owners never overlap."""
        task = self._working.pop(lease.shard, None)
        if task is None:
            return
        task.cancel()
        self._house.board.clear(lease.shard)
        if gracefully:
            await asyncio.wait((task,), timeout=STOP_S)


async def _work(process: Process) -> None:
    settings = process.settings
    link = Link(settings.redis_url, name=process.name)
    pool = await open_pool(
        settings.database_url,
        size=POOL_SIZE,
        application_name=process.name,
        secrets_keys=settings.secrets_keys,
    )
    freeze()
    try:
        await _keep(process, link, pool)
    finally:
        await link.close()
        await pool.aclose()


async def _keep(process: Process, link: Link, pool: Pool) -> None:
    settings = process.settings
    house = House(
        name=process.name,
        redis_url=settings.redis_url,
        pool=pool,
        now_ms=process.clock.now_ms,
        board=Board(),
        online_ms=settings.presence_online_ms,
        silent_after_ms=settings.silent_after_ms,
        retention_days=settings.message_retention_days,
        shards=settings.shards,
        dedup_window_ms=settings.dedup_window_ms,
        endpoint_disable_after_ms=settings.endpoint_disable_after_ms,
        keys=keys_where(signed=settings.require_signed_ingress),
    )
    async with asyncio.TaskGroup() as group:
        tenancy = Tenancy(
            link,
            process.clock,
            trade=TRADE,
            process=process.name,
            shards=settings.shards,
            lease_ms=settings.lease_ms,
            tenant=Keeper(group, house),
        )
        # When it returns every lease is given up, and with it every job has ended.
        await tenancy.run(process.stopping)
