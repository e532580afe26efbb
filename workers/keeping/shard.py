"""One shard in a keeper: one connection, and on it the jobs, for as long as the lease is held.

When Redis fails the jobs begin again on a new connection with what they remember: all of it is cursors and
things to do again, never a guess at what Redis holds. Postgres being away is each job's own affair, so that
scheduled messages come in time without it.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from broker.store.pool import Pool
from broker.streams.connection import open_connection
from broker.streams.ingress import Publisher
from broker.streams.keys import Keys
from broker.streams.ownership import Lease
from broker.telemetry import logs, metrics
from schema.errors import BrokerError, Fenced
from schema.limits import ENDPOINT_DISABLE_AFTER_MS
from workers.keeping import forgetting
from workers.keeping.board import Board
from workers.keeping.bounces import Bounces
from workers.keeping.comings import Comings
from workers.keeping.days import Days
from workers.keeping.departures import Departures
from workers.keeping.depths import DepthGauge
from workers.keeping.emptied import Emptied
from workers.keeping.heartbeats import Heartbeats
from workers.keeping.outbox import OutboxRelay
from workers.keeping.presence import PresenceFollower
from workers.keeping.schedule import Schedule
from workers.keeping.silence import Silence
from workers.keeping.statistics import Statistics
from workers.keeping.verdicts import Verdicts
from workers.keeping.work_orders import WorkOrders

BACKOFF_S: Final = 0.2
BACKOFF_S_MAX: Final = 5.0
DEPLOYMENT_SHARD: Final = 0
"""Who owns it does what is done once per deployment."""

_FENCED: Final = metrics.FENCED.child(trade="keep")


class House(Struct, frozen=True):
    """What all shards of a keeper share."""

    name: str
    redis_url: str
    pool: Pool
    now_ms: Callable[[], int]
    board: Board
    online_ms: int
    silent_after_ms: int
    retention_days: int
    shards: int = 1
    dedup_window_ms: int = 120_000
    endpoint_disable_after_ms: int = ENDPOINT_DISABLE_AFTER_MS
    keys: type[Keys] = Keys


class KeptShard:
    """The jobs of one shard under one lease."""

    def __init__(self, lease: Lease, house: House) -> None:
        keys = house.keys(lease.shard)
        self._lease = lease
        self._house = house
        self._schedule = Schedule(keys, lease)
        self._heartbeats = Heartbeats(house.pool, shard=lease.shard, now_ms=house.now_ms)
        self._presence = PresenceFollower(
            keys,
            self._heartbeats,
            Silence(keys.presence, shard=lease.shard, silent_after_ms=house.silent_after_ms),
            Comings(shard=lease.shard, online_ms=house.online_ms, silent_after_ms=house.silent_after_ms),
            online_ms=house.online_ms,
            now_ms=house.now_ms,
            board=house.board,
        )
        self._depths = DepthGauge(keys, house.board)
        self._verdicts = Verdicts(house.pool, keys, disable_after_ms=house.endpoint_disable_after_ms)

    async def run(self) -> None:
        """Do the jobs until cancelled; begin again after failures, later after repeated ones."""
        backoff_s = BACKOFF_S
        task = asyncio.current_task()
        assert task is not None
        while True:
            began_s = time.monotonic()
            # In a task of its own: a group in which something failed leaves the task it is in marked as being
            # cancelled (CPython before 3.13), and this one could not tell that from being told to end.
            serving = asyncio.get_running_loop().create_task(self._serve())
            try:
                await serving
            except* BrokerError as group:
                self._report(group)
            except* Exception as group:
                # The top of a worker loop: a bug met in one job must not end the keeper, nor the other jobs.
                logs.error("keep.shard_broken", shard=self._lease.shard, error=group)
            if task.cancelling():
                # It came while the jobs were ending after a failure: their group swallows it then.
                return
            if time.monotonic() - began_s > BACKOFF_S_MAX:
                backoff_s = BACKOFF_S
            await asyncio.sleep(backoff_s)
            backoff_s = min(backoff_s * 2, BACKOFF_S_MAX)

    async def _serve(self) -> None:
        """Do the jobs. Raises: BrokerErrors of Redis, alone or in a group."""
        house, shard = self._house, self._lease.shard
        async with (
            await open_connection(
                house.redis_url, name=f"{house.name}-{shard}", key=Keys(shard).active
            ) as connection,
            asyncio.TaskGroup() as group,
        ):
            group.create_task(self._schedule.run(connection))
            group.create_task(self._presence.run(connection))
            group.create_task(self._heartbeats.run())
            group.create_task(self._depths.run(connection))
            group.create_task(self._verdicts.run(connection))
            if shard == DEPLOYMENT_SHARD:
                days = Days(house.pool, retention_days=house.retention_days, now_ms=house.now_ms)
                group.create_task(days.run())
                group.create_task(self._watch_deployment())
                group.create_task(self._see_off())
                statistics = Statistics(house.pool, retention_days=house.retention_days, now_ms=house.now_ms)
                group.create_task(statistics.run())
                group.create_task(forgetting.of_idempotency_keys(house.pool, now_ms=house.now_ms).run())
                group.create_task(forgetting.of_api_keys(house.pool, now_ms=house.now_ms).run())
                group.create_task(Bounces(house.pool).run())
                group.create_task(self._keep_orders())

    async def _watch_deployment(self) -> None:
        house = self._house
        async with await open_connection(house.redis_url, name=f"{house.name}-deployment") as connection:
            await Emptied(shards=house.shards).run(connection)

    async def _see_off(self) -> None:
        """Look after agents that leave, whatever their shards, until cancelled."""
        house = self._house
        departures = Departures(house.pool, shards=house.shards, now_ms=house.now_ms)
        async with await open_connection(house.redis_url, name=f"{house.name}-departures") as connection:
            await departures.run(connection)

    async def _keep_orders(self) -> None:
        """Empty the outbox and look after work orders, which fill it, until cancelled."""
        house = self._house
        publisher = Publisher(
            house.redis_url, shards=house.shards, name=f"{house.name}-outbox", keys=house.keys
        )
        relay = OutboxRelay(house.pool, publisher, dedup_window_ms=house.dedup_window_ms)
        orders = WorkOrders(
            house.pool, post=relay.post, retention_days=house.retention_days, now_ms=house.now_ms
        )
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(relay.run())
                group.create_task(orders.run())
        finally:
            await publisher.close()

    def _report(self, group: BaseExceptionGroup[BrokerError]) -> None:
        if group.subgroup(Fenced) is not None:
            # The lease is gone, or a renewal will say so soon.
            _FENCED.inc()
        logs.warning("keep.shard_failed", shard=self._lease.shard, error=group.exceptions[0])
