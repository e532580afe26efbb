"""One shard in a worker: one connection, and on it the trades this process holds leases for.

Routing and delivery of a shard share the connection, because what delivery keeps in memory is right only
while it sees all replies in the order Redis gave them. When anything on the shard fails, everything of the
shard is thrown away and begun anew from what Redis holds.
"""

import asyncio
import random
import time
from collections.abc import Coroutine
from typing import Final

from msgspec import Struct

from broker.streams.clock import ServerClock
from broker.streams.connection import Connection, open_connection
from broker.streams.gate import Lanes
from broker.streams.ingress import Publisher
from broker.streams.keys import Keys
from broker.streams.ownership import Lease
from broker.telemetry import logs
from broker.transport.client import PushClient
from schema.agent import Agent
from schema.errors import BrokerError
from schema.ids import shard_of
from workers.delivery.delivery import Delivery, DeliveryRules
from workers.delivery.replies import Replies
from workers.delivery.rerouting import another_in
from workers.delivery.stats import DeliveryStats
from workers.delivery.survival import Survival
from workers.doorbell import Doorbell
from workers.gate import Gate, Inspector, carry_back
from workers.guard import Guard
from workers.live_directory import LiveDirectory
from workers.loads import ShardLoads
from workers.placing import Placer
from workers.router import Router, RouterRules
from workers.unparking import Unparking

BACKOFF_S: Final = 0.2
BACKOFF_S_MAX: Final = 5.0


class House(Struct, frozen=True):
    """What all shards of a worker share."""

    redis_url: str
    directory: LiveDirectory
    client: PushClient
    publisher: Publisher
    replies: Replies
    clock: ServerClock
    stats: DeliveryStats
    delivery_rules: DeliveryRules
    router_rules: RouterRules
    survival: Survival
    drain_s: float
    guard: Guard | None = None
    keys: type[Keys] = Keys
    inspector: Inspector | None = None
    """Judges what is published natively; None where nothing has to be signed."""


class Shard:
    """A shard this worker may hold. `run` lives as long as the worker."""

    def __init__(self, number: int, house: House) -> None:
        self._keys = house.keys(number)
        self._house = house
        self._leases: dict[str, Lease] = {}
        self._wanted = asyncio.Event()
        self._unwanted = asyncio.Event()
        self._group: asyncio.TaskGroup | None = None
        self._connection: Connection | None = None
        self._tasks: dict[str, list[asyncio.Task[None]]] = {}
        self._unparking: Unparking | None = None
        self.delivery: Delivery | None = None
        self.router: Router | None = None

    async def run(self) -> None:
        """Serve the shard whenever a lease for it is held, until cancelled; begin anew after failures."""
        backoff_s = BACKOFF_S
        task = asyncio.current_task()
        assert task is not None
        while True:
            await self._wanted.wait()
            began_s = time.monotonic()
            # In a task of its own: a group in which something failed can leave the task it is in marked as
            # being cancelled (CPython before 3.13), and this one could not tell that from being told to end.
            serving = asyncio.get_running_loop().create_task(self._serve())
            try:
                await serving
            except* BrokerError as group:
                # Fenced: the lease is gone, and a renewal will say so soon.
                logs.warning("shard.failed", shard=self._keys.shard, error=group.exceptions[0])
            except* Exception as group:
                # The top of a worker loop: a bug met on one shard must not end the others.
                logs.error("shard.broken", shard=self._keys.shard, error=group)
            if task.cancelling():
                # It came while the trades were ending after a failure: their group swallows it then.
                return
            if time.monotonic() - began_s > BACKOFF_S_MAX:
                backoff_s = BACKOFF_S
            if self._leases:
                await asyncio.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, BACKOFF_S_MAX)

    # --- Tenant ---------------------------------------------------------------------------------------

    async def start(self, lease: Lease) -> None:
        """Take up a trade."""
        self._leases[lease.trade] = lease
        self._unwanted.clear()
        self._wanted.set()
        if self._group is not None:
            self._spawn(lease.trade, self._open(lease))

    async def stop(self, lease: Lease, *, gracefully: bool) -> None:
        """Lay down a trade; gracefully: what is in flight finishes first, as long as the drain may last."""
        trade = self.router if lease.trade == "route" else self.delivery
        if gracefully and trade is not None:
            try:
                async with asyncio.timeout(self._house.drain_s):
                    await trade.drain()
            except TimeoutError:
                logs.warning("shard.drain_timed_out", shard=self._keys.shard, trade=lease.trade)
        if self._leases.get(lease.trade) is lease:
            del self._leases[lease.trade]
        self._close(lease.trade)
        if not self._leases:
            self._wanted.clear()
            self._unwanted.set()

    # --- inside ---------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        async with await self._connect("shard") as self._connection:
            try:
                async with asyncio.TaskGroup() as group:
                    self._group = group
                    for lease in self._leases.values():
                        self._spawn(lease.trade, self._open(lease))
                    await self._unwanted.wait()
            finally:
                self._group = None
                for trade in tuple(self._tasks):
                    self._close(trade)

    async def _connect(self, purpose: str) -> Connection:
        name = f"worker-{purpose}-{self._keys.shard}"
        return await open_connection(self._house.redis_url, name=name, key=self._keys.active)

    async def _open(self, lease: Lease) -> None:
        if lease.trade == "deliver":
            await self._open_delivery(lease)
        else:
            await self._open_router(lease)

    async def _open_delivery(self, lease: Lease) -> None:
        house, connection = self._house, self._connection
        assert connection is not None
        self.delivery = Delivery(
            connection,
            self._keys,
            lease,
            client=house.client,
            clock=house.clock,
            find_agent=house.directory.directory.get,
            rules=house.delivery_rules,
            stats=house.stats,
            replies=house.replies,
            another=another_in(house.directory.directory, house.clock.now_ms),
            survival=house.survival,
        )
        self._spawn("deliver", self.delivery.run())
        self._spawn("deliver", self._answer_doorbell(self.delivery))

    async def _open_router(self, lease: Lease) -> None:
        house, connection = self._house, self._connection
        assert connection is not None
        directory = house.directory.directory
        loads = ShardLoads(lambda: self.delivery, house.stats)
        shards = house.router_rules.shards
        if house.guard is not None:
            house.guard.begin(self._keys.shard)
        self.router = Router(
            connection,
            self._keys,
            lease,
            placer=Placer(
                directory,
                loads,
                shard=self._keys.shard,
                shards=shards,
                chance=random.random,
                guard=house.guard,
            ),
            refresh=house.directory.refresh,
            publisher=house.publisher,
            clock=house.clock,
            rules=house.router_rules,
            delivery=lambda: self.delivery,
        )
        self._unparking = Unparking(connection, self._keys, lease, directory, house.clock)
        if self.delivery is not None:
            # The last router may have rung a bell nobody has heard yet.
            await self.delivery.sweep()
        self._spawn("route", self._route(self.router))
        self._spawn("route", self._unparking.run())
        if house.inspector is not None:
            self._spawn("route", self._guard_lanes(lease, house.inspector))
        else:
            self._spawn("route", carry_back(Lanes(connection, self._keys.shard, lease)))

    async def _route(self, router: Router) -> None:
        async with await self._connect("ingress") as reader:
            await router.run(reader)

    async def _guard_lanes(self, lease: Lease, inspector: Inspector) -> None:
        async with await self._connect("gate") as connection:
            lanes = Lanes(connection, self._keys.shard, lease)
            await Gate(lanes, inspector, now_ms=self._house.clock.now_ms).run()

    async def _answer_doorbell(self, delivery: Delivery) -> None:
        async with await self._connect("doorbell") as reader:
            await Doorbell(reader, self._keys, delivery, routed_here=lambda: self.router is not None).run()

    def _spawn(self, trade: str, work: Coroutine[None, None, None]) -> None:
        assert self._group is not None
        try:
            self._tasks.setdefault(trade, []).append(self._group.create_task(work))
        except RuntimeError:
            # The group is ending after a failure; what begins anew takes up every lease held by then.
            work.close()

    def _close(self, trade: str) -> None:
        for task in self._tasks.pop(trade, ()):
            task.cancel()
        if trade == "deliver" and self.delivery is not None:
            self.delivery.close()
            self.delivery = None
        if trade == "route" and self.router is not None:
            self.router.close()
            self.router = self._unparking = None

    def agent_changed(self, agent_id: str, agent: Agent | None) -> None:
        """Pass on a change in the registry, if the agent is one of this shard's."""
        own = shard_of(agent_id, self._house.router_rules.shards) == self._keys.shard
        if own and self.delivery is not None:
            self.delivery.agent_changed(agent_id, agent)

    def agents_available(self) -> None:
        if self._unparking is not None:
            self._unparking.wake()
