"""The faults, one class each: `inject` does it, `heal` undoes it. What they are done with is in `World`.

A fault says whether it could cut off what was in flight to a receiver (`interrupts`): only then may a message
reach its receiver again without a failed attempt on record. Faults of one store wait for one another.
"""

import asyncio
import random
from abc import ABC, abstractmethod
from contextlib import AsyncExitStack
from typing import ClassVar, Final

from msgspec import Struct

from chaos import clock
from chaos.fleet import Fleet
from chaos.journal import Journal
from chaos.links import Links
from chaos.stores import MEMORY_BYTES, Store, Stores

IN_HAND_S_MAX: Final = 45.0
"""A fault that cannot get at its store for this long is skipped, which is counted."""
CLOCK_STEP_S_MAX: Final = 240.0
"""Receivers refuse signatures that are five minutes off, as the standard says."""


class World(Struct):
    """What there is to break."""

    fleet: Fleet
    stores: Stores
    links: Links
    journal: Journal
    lease_s: float


class NotPossible(Exception):
    """This fault cannot be done here and now; the reason is noted, and it is not counted as done."""


class Fault(ABC):
    """Something to break, drawn from the seed. `for_s`: how long it lasts."""

    kind: ClassVar[str]
    interrupts: bool = False

    def __init__(self, chance: random.Random, *, brief: bool) -> None:
        """Draw what is left open. `brief`: of a short run, where nothing may last."""
        self.for_s = 0.0
        self.target = ""

    async def run(self, world: World) -> None:
        """Inject, wait, heal; noted from the one to the other."""
        async with AsyncExitStack() as stack:
            try:
                await self.prepare(world, stack)
                with world.journal.during(
                    self.kind, self.target, interrupts=self.interrupts, for_s=self.for_s
                ):
                    try:
                        await self.inject(world)
                        await asyncio.sleep(self.for_s)
                    finally:
                        await self.heal(world)
            except NotPossible as error:
                world.journal.skip(self.kind, str(error))

    async def prepare(self, world: World, stack: AsyncExitStack) -> None:  # noqa: B027  # few need to
        """Get hold of what is to be broken. Raises: NotPossible."""

    @abstractmethod
    async def inject(self, world: World) -> None:
        """Break it. Raises: NotPossible; nothing is broken then."""

    async def heal(self, world: World) -> None:  # noqa: B027  # what only strikes is over at once
        """Make it well again, also where `inject` has failed half-way."""


# --- processes --------------------------------------------------------------------------------------------


class _OfProcess(Fault):
    """A fault of one process of a role."""

    roles: ClassVar[tuple[str, ...]] = ("worker", "gateway", "recorder", "keeper")

    def __init__(self, chance: random.Random, *, brief: bool) -> None:
        super().__init__(chance, brief=brief)
        self._pick = chance.random()
        self._role = chance.choice(self.roles)

    async def prepare(self, world: World, stack: AsyncExitStack) -> None:
        names = world.fleet.of_role(self._role)
        self.target = names[int(self._pick * len(names))]


class _Kill(_OfProcess):
    """SIGKILL, at a random moment; whoever supervises starts another."""

    async def inject(self, world: World) -> None:
        if not world.fleet.kill(self.target):
            raise NotPossible(f"{self.target} is not running")


class KillWorker(_Kill):
    kind = "kill of a worker"
    roles = ("worker",)
    interrupts = True


class KillGateway(_Kill):
    kind = "kill of a gateway"
    roles = ("gateway",)


class KillRecorder(_Kill):
    kind = "kill of a recorder"
    roles = ("recorder",)


class KillKeeper(_Kill):
    kind = "kill of a keeper"
    roles = ("keeper",)


class Drain(_OfProcess):
    """SIGTERM: it finishes what it has in hand, hands over, ends, and is started again."""

    kind = "drain by SIGTERM"

    async def inject(self, world: World) -> None:
        if not world.fleet.terminate(self.target):
            raise NotPossible(f"{self.target} is not running")


class Sleep(_OfProcess):
    """SIGSTOP, for longer than a lease, then SIGCONT: the sleeper must find itself fenced."""

    kind = "sleep beyond the lease"
    roles = ("worker", "worker", "recorder", "keeper")

    def __init__(self, chance: random.Random, *, brief: bool) -> None:
        super().__init__(chance, brief=brief)
        self._leases = chance.uniform(1.3, 1.6 if brief else 3.0)
        self.interrupts = self._role == "worker"

    async def prepare(self, world: World, stack: AsyncExitStack) -> None:
        await super().prepare(world, stack)
        self.for_s = self._leases * world.lease_s

    async def inject(self, world: World) -> None:
        if not world.fleet.hold(self.target):
            raise NotPossible(f"{self.target} is not running")

    async def heal(self, world: World) -> None:
        world.fleet.release(self.target)


class ClockStep(_OfProcess):
    """The clock of one process jumps, forward or back, and after a while back again."""

    kind = "clock step"

    def __init__(self, chance: random.Random, *, brief: bool) -> None:
        super().__init__(chance, brief=brief)
        self._step_s = chance.choice((-1, 1)) * CLOCK_STEP_S_MAX ** chance.random()
        self.for_s = chance.uniform(1, 3 if brief else 15)

    async def inject(self, world: World) -> None:
        clock.write(world.fleet.clock_of(self.target), self._step_s)

    async def heal(self, world: World) -> None:
        clock.write(world.fleet.clock_of(self.target), 0.0)


# --- stores -----------------------------------------------------------------------------------------------


class _OfStore(Fault):
    """A fault of a store, which it has to itself meanwhile."""

    store: ClassVar[str]

    async def prepare(self, world: World, stack: AsyncExitStack) -> None:
        self.target = self.store
        store = self._of(world)
        try:
            async with asyncio.timeout(IN_HAND_S_MAX):
                await stack.enter_async_context(store.in_hand)
        except TimeoutError:
            raise NotPossible(f"{self.store} was busy with other faults") from None

    def _of(self, world: World) -> Store:
        return world.stores.redis if self.store == "redis" else world.stores.postgres


class KillRedis(_OfStore):
    """SIGKILL; started again from its append-only file after a moment."""

    kind = "kill of Redis"
    store = "redis"
    interrupts = True

    def __init__(self, chance: random.Random, *, brief: bool) -> None:
        super().__init__(chance, brief=brief)
        self.for_s = chance.uniform(0, 1 if brief else 3)

    async def inject(self, world: World) -> None:
        world.stores.redis.is_wanted = False
        world.stores.redis.kill()

    async def heal(self, world: World) -> None:
        await world.stores.redis.start()


class RedisOutOfMemory(_OfStore):
    """`maxmemory` below what is used, for some seconds: every growing write is refused."""

    kind = "Redis out of memory"
    store = "redis"
    interrupts = True

    def __init__(self, chance: random.Random, *, brief: bool) -> None:
        super().__init__(chance, brief=brief)
        self.for_s = chance.uniform(1, 2 if brief else 6)

    async def inject(self, world: World) -> None:
        await world.stores.limit_memory(await world.stores.memory_bytes() * 9 // 10)

    async def heal(self, world: World) -> None:
        await world.stores.limit_memory(MEMORY_BYTES)


class CrashPostgres(_OfStore):
    """Immediate stop: sessions end, nothing is written down, recovery at the next start."""

    kind = "crash of Postgres"
    store = "postgres"

    def __init__(self, chance: random.Random, *, brief: bool) -> None:
        super().__init__(chance, brief=brief)
        self.for_s = chance.uniform(0, 1 if brief else 4)

    async def inject(self, world: World) -> None:
        world.stores.postgres.is_wanted = False
        server = world.stores.postgres.server
        await asyncio.to_thread(server.stop, "immediate")  # type: ignore[call-arg]  # it is PostgreSQL

    async def heal(self, world: World) -> None:
        await world.stores.postgres.start()


class PostgresOutage(CrashPostgres):
    """The same for a minute: the ledger is the buffer meanwhile."""

    kind = "long outage of Postgres"

    def __init__(self, chance: random.Random, *, brief: bool) -> None:
        super().__init__(chance, brief=brief)
        self.for_s = 4.0 if brief else 60.0


class _FullDisk(_OfStore):
    """Not a byte is free on the store's file system for some seconds; a store that dies of it is started
    again when there is room."""

    def __init__(self, chance: random.Random, *, brief: bool) -> None:
        super().__init__(chance, brief=brief)
        self.for_s = chance.uniform(2, 3 if brief else 8)

    async def prepare(self, world: World, stack: AsyncExitStack) -> None:
        if not world.stores.own_disks:
            raise NotPossible("no file system of its own can be mounted here")
        await super().prepare(world, stack)

    async def inject(self, world: World) -> None:
        # What dies of it is noted as dead, and cannot be started before there is room.
        await asyncio.to_thread(self._of(world).fill)

    async def heal(self, world: World) -> None:
        await asyncio.to_thread(self._of(world).empty)
        if self._of(world).has_ended():
            await self._of(world).start()


class RedisDiskFull(_FullDisk):
    kind = "disk of Redis full"
    store = "redis"
    interrupts = True


class PostgresDiskFull(_FullDisk):
    kind = "disk of Postgres full"
    store = "postgres"


# --- the network ------------------------------------------------------------------------------------------


class _OfLink(Fault):
    """A fault of the way between two processes."""

    def __init__(self, chance: random.Random, *, brief: bool) -> None:
        super().__init__(chance, brief=brief)
        self._pick = chance.random()
        self.for_s = chance.uniform(0.5, 2 if brief else 10)

    async def prepare(self, world: World, stack: AsyncExitStack) -> None:
        names = sorted(world.links.names)
        self.target = names[int(self._pick * len(names))]
        # What fails on the way to a receiver is a failed attempt, on record; what was answered and cannot be
        # settled is sent again.
        self.interrupts = self.target.startswith("worker") and self.target.endswith(">redis")

    async def heal(self, world: World) -> None:
        world.links.tell(self.target)


class Latency(_OfLink):
    """Every byte is late."""

    kind = "latency"

    async def inject(self, world: World) -> None:
        world.links.tell(self.target, latency_s=self._latency_s)

    def __init__(self, chance: random.Random, *, brief: bool) -> None:
        super().__init__(chance, brief=brief)
        self._latency_s = chance.uniform(0.02, 0.5)


class Reset(_OfLink):
    """Every connection ends with a RST."""

    kind = "connection reset"

    def __init__(self, chance: random.Random, *, brief: bool) -> None:
        super().__init__(chance, brief=brief)
        self.for_s = 0.0

    async def inject(self, world: World) -> None:
        world.links.tell(self.target, reset=True)


class BlackHole(_OfLink):
    """Nothing passes, and nobody says so."""

    kind = "black hole"

    async def inject(self, world: World) -> None:
        world.links.tell(self.target, frozen=True)


class Cut(_OfLink):
    """Connections end after some bytes more, in the middle of whatever it is."""

    kind = "cut in the middle"

    def __init__(self, chance: random.Random, *, brief: bool) -> None:
        super().__init__(chance, brief=brief)
        self._bytes = int(chance.uniform(1, 20_000))

    async def inject(self, world: World) -> None:
        world.links.tell(self.target, cut_after=self._bytes)
