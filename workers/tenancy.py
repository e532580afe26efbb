"""Which shards this process works on for one trade: takes leases, keeps them, gives them up in order.

The tenant does the work. It is started with a lease and stopped before the lease goes to another; gracefully
where we give it up ourselves, at once where it was lost (whatever it still sends then is fenced).

Invariant: while a tenant drains, its lease is still renewed.
"""

import asyncio
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Final, Protocol

from broker.streams.clock import ServerClock
from broker.streams.link import Link
from broker.streams.ownership import RENEWALS_PER_LEASE, Lease, Leases
from broker.telemetry import logs, metrics, readiness
from schema.errors import StreamsUnavailable, Unavailable

LOOK_S_MAX: Final = 0.5
"""How often at least a process looks for shards that have become free."""


class Tenant(Protocol):
    """Who works on the shards."""

    async def start(self, lease: Lease) -> None:
        """Begin to work on a shard; return soon."""

    async def stop(self, lease: Lease, *, gracefully: bool) -> None:
        """End the work on a shard; gracefully: finish what is in flight first."""


class Tenancy:
    """The leases of one process for one trade, and its tenant."""

    def __init__(
        self,
        link: Link,
        clock: ServerClock,
        *,
        trade: str,
        process: str,
        shards: int,
        lease_ms: int,
        tenant: Tenant,
        prefer: Callable[[], Iterable[int]] = tuple,
    ) -> None:
        self._link = link
        self._clock = clock
        self._tenant = tenant
        self._prefer = prefer
        self._leases = Leases(trade=trade, process=process, shards=shards, lease_ms=lease_ms)
        self._interval_s = min(LOOK_S_MAX, lease_ms / 1000 / RENEWALS_PER_LEASE)
        self._held = metrics.LEASES_HELD.child(trade=trade)
        self._stops: dict[int, asyncio.Task[None]] = {}

    @property
    def shards(self) -> list[int]:
        """The shards held now, without those that are being handed over."""
        return [shard for shard in self._leases.held if shard not in self._stops]

    async def run(self, stopping: asyncio.Event) -> None:
        """Hold leases until `stopping`, then give all up; returns when everything is handed over."""
        try:
            while not stopping.is_set():
                await self._turn(take=True)
                with suppress(TimeoutError):
                    async with asyncio.timeout(self._interval_s):
                        await stopping.wait()
            for lease in list(self._leases.held.values()):
                self._give_up(lease)
            while self._stops:
                await asyncio.wait(self._stops.values(), timeout=self._interval_s)
                await self._turn(take=False)
        finally:
            await self._leave()

    async def _turn(self, *, take: bool) -> None:
        """Renew, give up what is too much, take what is due."""
        try:
            leases, held = self._leases, self._leases.held
            connection = await self._link.get()
            # First, because of a cluster another node may be away, and that must cost no lease.
            await self._end(await leases.renew(connection))
            await self._clock.measure(connection)
            if take:
                due = await leases.due(connection, now_ms=self._clock.now_ms())
                # What is too much is given up among what is not preferred, as long as there is any.
                preferred = set(self._prefer())
                for shard in sorted(self.shards, key=lambda shard: shard not in preferred)[due:]:
                    self._give_up(held[shard])
                for lease in await leases.take(connection, up_to=due, prefer=self._prefer()):
                    logs.event("lease.taken", trade=lease.trade, shard=lease.shard)
                    await self._tenant.start(lease)
            readiness.has("redis")
        except Unavailable as error:
            readiness.awaits("redis", error.message)
            logs.warning("lease.turn_failed", trade=self._leases.trade, reason=error.message)
            await self._end(self._leases.drop_ended())
        self._stops = {shard: task for shard, task in self._stops.items() if not task.done()}
        self._held.set(len(self._leases.held))

    async def _end(self, lost: list[Lease]) -> None:
        for lease in lost:
            logs.warning("lease.lost", trade=lease.trade, shard=lease.shard, late_ms=lease.late_ms)
            await self._tenant.stop(lease, gracefully=False)

    def _give_up(self, lease: Lease) -> None:
        if lease.shard not in self._stops:
            self._stops[lease.shard] = asyncio.get_running_loop().create_task(self._hand_over(lease))

    async def _hand_over(self, lease: Lease) -> None:
        await self._tenant.stop(lease, gracefully=True)
        with suppress(StreamsUnavailable):
            await self._leases.release(await self._link.get(), lease.shard)
        logs.event("lease.given_up", trade=lease.trade, shard=lease.shard)

    async def _leave(self) -> None:
        for task in self._stops.values():
            task.cancel()
        for lease in list(self._leases.held.values()):
            await self._tenant.stop(lease, gracefully=False)
        with suppress(StreamsUnavailable):
            await self._leases.leave(await self._link.get())
        self._held.set(0)
