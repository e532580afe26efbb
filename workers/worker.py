"""The worker process: routing and delivery of the shards it holds leases for, together or apart."""

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import Final

from broker.core.admission import Quota
from broker.core.loops import LoopRules
from broker.gateway.keyring import Keyring
from broker.settings import Settings
from broker.store.pool import Pool, open_pool
from broker.streams.ingress import Publisher
from broker.streams.keys import keys_where
from broker.streams.link import Link
from broker.streams.ownership import Lease
from broker.streams.presence import Presence
from broker.telemetry import metrics
from broker.transport.client import Deadlines, PushClient
from broker.transport.policy import policy_of
from schema.errors import Unsafe
from workers.delivery.delivery import DeliveryRules
from workers.delivery.endpoint import Allowance
from workers.delivery.replies import Replies
from workers.delivery.stats import DeliveryStats
from workers.delivery.survival import Survival
from workers.gate import Inspector, Owners
from workers.guard import Guard, GuardRules
from workers.live_directory import LiveDirectory
from workers.router import RouterRules
from workers.runtime import Process, freeze, run_role
from workers.shard import House, Shard
from workers.tenancy import Tenancy

TRADES: Final = ("route", "deliver")
POOL_SIZE: Final = 2
"""A worker asks Postgres for agents only: at start, and when the registry says that one changed."""


def main(settings: Settings, trades: Sequence[str] = TRADES) -> int:
    """Run a worker for these trades until it is told to stop."""

    async def work(process: Process) -> None:
        await _work(process, trades)

    return run_role("worker", settings, work)


async def _work(process: Process, trades: Sequence[str]) -> None:
    settings = process.settings
    if settings.require_signed_ingress and not settings.secrets_keys:
        raise Unsafe("REQUIRE_SIGNED_INGRESS is on and SECRETS_KEY is not set: no signature can be checked")
    link = Link(settings.redis_url, name=process.name)
    pool = await open_pool(
        settings.database_url,
        size=POOL_SIZE,
        application_name=process.name,
        secrets_keys=settings.secrets_keys,
    )
    directory = LiveDirectory(
        pool,
        settings.redis_url,
        Presence(link, shards=settings.shards),
        silent_after_ms=settings.silent_after_ms,
    )
    keys = keys_where(signed=settings.require_signed_ingress)
    publisher = Publisher(settings.redis_url, shards=settings.shards, name=process.name, keys=keys)
    client = PushClient(policy=policy_of(settings))
    replies = Replies(publisher)
    house = House(
        redis_url=settings.redis_url,
        directory=directory,
        client=client,
        publisher=publisher,
        replies=replies,
        clock=process.clock,
        stats=DeliveryStats(pushed=directory.pushed),
        delivery_rules=_delivery_rules(settings),
        router_rules=RouterRules(shards=settings.shards, window_ms=settings.dedup_window_ms),
        survival=Survival(link),
        drain_s=settings.drain_timeout_ms / 1000,
        guard=Guard(
            link, publisher, process.clock, _guard_rules(settings), find_agent=directory.directory.get
        ),
        keys=keys,
        inspector=_inspector(process, pool, directory) if settings.require_signed_ingress else None,
    )
    try:
        await _until_stopped(process, house, link, trades)
    finally:
        await replies.close()
        await client.aclose()
        await publisher.close()
        await link.close()
        await pool.aclose()


async def _until_stopped(process: Process, house: House, link: Link, trades: Sequence[str]) -> None:
    settings = process.settings
    loading = asyncio.ensure_future(house.directory.load())
    stopped = asyncio.ensure_future(process.stopping.wait())
    await asyncio.wait((loading, stopped), return_when=asyncio.FIRST_COMPLETED)
    if not loading.done():
        loading.cancel()
        return
    shards = [Shard(number, house) for number in range(settings.shards)]
    _watch(house, shards)
    guard = house.guard
    assert guard is not None
    guard.routed_here = lambda: [number for number, shard in enumerate(shards) if shard.router is not None]
    guard.switched(house.directory.switches)
    house.directory.on_switches.append(guard.switched)
    house.directory.on_change.append(guard.agent_changed)
    freeze()
    tenant = _Tenant(shards)
    tenancies: dict[str, Tenancy] = {}
    for trade in trades:
        tenancies[trade] = Tenancy(
            link,
            process.clock,
            trade=trade,
            process=process.name,
            shards=settings.shards,
            lease_ms=settings.lease_ms,
            tenant=tenant,
            # The same shards for both trades, so that what is routed here can be posted from memory here.
            prefer=partial(_held_by_others, tenancies, trade),
        )
    async with asyncio.TaskGroup() as group:
        background = [group.create_task(shard.run()) for shard in shards]
        background.append(group.create_task(house.directory.run()))
        background.append(group.create_task(house.survival.run()))
        if "route" in trades:
            background.append(group.create_task(guard.run()))
        holding = [group.create_task(tenancy.run(process.stopping)) for tenancy in tenancies.values()]
        await asyncio.wait(holding)
        for task in background:
            task.cancel()


def _held_by_others(tenancies: dict[str, Tenancy], trade: str) -> list[int]:
    return [shard for name, other in tenancies.items() if name != trade for shard in other.shards]


class _Tenant:
    """Hands leases to the shards they are for."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self._shards = shards

    async def start(self, lease: Lease) -> None:
        await self._shards[lease.shard].start(lease)

    async def stop(self, lease: Lease, *, gracefully: bool) -> None:
        await self._shards[lease.shard].stop(lease, gracefully=gracefully)


def _watch(house: House, shards: Sequence[Shard]) -> None:
    """Connect what the directory hears to the shards, and their numbers to the metrics."""
    for shard in shards:
        house.directory.on_change.append(shard.agent_changed)
        house.directory.on_available.append(shard.agents_available)
    metrics.IN_FLIGHT.child().read = lambda: house.client.in_flight
    metrics.ENDPOINT_CONNECTIONS.child().read = lambda: house.client.connections
    metrics.BREAKERS_OPEN.child().read = lambda: sum(
        shard.delivery.room.breakers_open for shard in shards if shard.delivery is not None
    )
    metrics.QUEUE_DEPTH.child(queue="memory").read = partial(_held, shards)


def _held(shards: Sequence[Shard]) -> int:
    """Return how many messages wait in memory."""
    return sum(shard.delivery.room.queued for shard in shards if shard.delivery is not None)


def _inspector(process: Process, pool: Pool, directory: LiveDirectory) -> Inspector:
    settings, now_ms = process.settings, process.clock.now_ms
    keyring = Keyring(pool, operator_key=settings.agent_api_key, pepper=settings.key_pepper.encode())
    return Inspector(
        settings.secrets_keys, Owners(keyring, now_ms=now_ms), find_agent=directory.directory.get
    )


def _guard_rules(settings: Settings) -> GuardRules:
    return GuardRules(
        shards=settings.shards,
        quota=Quota(settings.inbox_messages_max, settings.inbox_mb_max * 1024 * 1024),
        loops=LoopRules(
            repeats=settings.loop_repeats_max,
            alternations=settings.loop_alternations_max,
        ),
        root_messages_max=settings.root_messages_max,
    )


def _delivery_rules(settings: Settings) -> DeliveryRules:
    deadlines = Deadlines(
        total_ms=settings.attempt_total_ms,
        connect_ms=settings.attempt_connect_ms,
        tls_ms=settings.attempt_tls_ms,
        first_byte_ms=settings.attempt_first_byte_ms,
    )
    return DeliveryRules(
        deadlines=deadlines,
        allowance=Allowance(
            concurrency=settings.endpoint_concurrency,
            pushes_per_second=settings.endpoint_pushes_per_second,
        ),
        own_total_ms_max=settings.attempt_own_ms_max,
        disable_after_ms=settings.endpoint_disable_after_ms,
        scale=settings.retry_time_scale,
    )
