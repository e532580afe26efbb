"""Workers without their processes: real shards on a real Redis, with a directory filled by hand.

A `Site` is what one worker process would be. It can be stopped, as SIGTERM does, or killed: nothing it had in
hand is settled, and its leases are left to whoever comes next.
"""

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, suppress
from datetime import UTC, datetime
from typing import Any

import redis
from cluster import client_of, close, keys_of
from msgspec import Raw
from receiver import Receiver, receiving

from broker.core.addresses import AddressPolicy
from broker.core.directory import Directory
from broker.streams.clock import ServerClock
from broker.streams.connection import Connection, open_connection
from broker.streams.ingress import Publisher
from broker.streams.keys import Keys
from broker.streams.link import Link
from broker.streams.ownership import Lease
from broker.transport.client import Deadlines, PushClient
from broker.transport.signature import new_secret
from schema.agent import Agent
from schema.codec import decode_events, encode
from schema.errors import StreamsUnavailable
from schema.ids import new_id, shard_of
from schema.ledger import Event, EventKind
from schema.message import LANES, Envelope, Lane, Status
from workers.delivery.delivery import DeliveryRules
from workers.delivery.replies import Replies
from workers.delivery.stats import DeliveryStats
from workers.delivery.survival import Survival
from workers.gate import Inspector
from workers.guard import Guard, GuardRules
from workers.router import RouterRules
from workers.shard import House, Shard

BOTH = ("route", "deliver")
DEADLINES = Deadlines(total_ms=10_000, connect_ms=2_000, tls_ms=2_000, first_byte_ms=10_000)
PATIENT = Deadlines(total_ms=90_000, connect_ms=10_000, tls_ms=10_000, first_byte_ms=90_000)
"""For endpoints that are held: longer than an attempt may take, on a busy machine."""
LEFT_TO_OTHERS = 3
"""Between two looks, as a multiple of what a look takes."""
LEFT_TO_OTHERS_S_MAX = 0.25
"""A look in which the machine stood still has taken nobody's time."""


def _loopback_client() -> PushClient:
    return PushClient(policy=AddressPolicy(["127.0.0.0/8"]))


class HandDirectory:
    """What a shard asks of the live directory, filled by the test. `refreshing` is what a refresh does."""

    def __init__(self) -> None:
        self.directory = Directory(silent_after_ms=3_600_000)
        self.refreshing: Callable[[], Awaitable[None]] | None = None
        self.refreshes = 0

    async def refresh(self) -> None:
        self.refreshes += 1
        if self.refreshing is not None:
            await self.refreshing()

    def pushed(self, agent_id: str, now_ms: int) -> None:
        self.directory.heard(agent_id, now_ms)


class World:
    """A deployment: its Redis, agents, receivers, sites."""

    def __init__(
        self,
        url: str,
        *,
        shards: int = 1,
        scale: float = 0.02,
        keys: type[Keys] = Keys,
        inspector: Inspector | None = None,
    ) -> None:
        self.url = url
        self.shards = shards
        self.scale = scale
        self.keys_class = keys
        self.inspector = inspector
        self.keys = [keys(shard) for shard in range(shards)]
        self.live = HandDirectory()
        self.raw: redis.Redis
        self.publisher: Publisher
        self.rules: dict[str, Any] = {}  # Any: whatever DeliveryRules takes
        self.make_client: Callable[[], PushClient] = _loopback_client
        self.window_ms = 120_000
        self.guard_rules: GuardRules | None = None
        self._stack = AsyncExitStack()
        self._sites: list[Site] = []

    async def __aenter__(self) -> "World":
        self.raw = client_of(self.url)
        self.publisher = Publisher(self.url, shards=self.shards, keys=self.keys_class)
        await (
            self.publisher._link.get()
        )  # what waits for it to open may overtake, and some tests look at order
        return self

    async def __aexit__(self, *_: object) -> None:
        for site in self._sites:
            await site.kill()
        await self._stack.aclose()
        await self.publisher.close()
        close(self.raw)

    # --- stage ----------------------------------------------------------------------------------------

    async def receiver(self) -> Receiver:
        return await self._stack.enter_async_context(receiving())

    def agent(self, receiver: Receiver | None = None, *, shard: int = 0, **more: Any) -> Agent:
        """Make an agent of a shard and let everybody know it; without a receiver it pulls."""
        agent_id = new_id()
        while shard_of(agent_id, self.shards) != shard:
            agent_id = new_id()
        agent = Agent(
            id=agent_id,
            name=more.pop("name", f"agent-{agent_id}"),
            endpoint=more.pop("endpoint", receiver.url() if receiver is not None else None),
            signing_secret=more.pop("signing_secret", new_secret()),
            heartbeat_ms=int(datetime.now(UTC).timestamp() * 1000),
            **more,
        )
        self.put(agent)
        return agent

    def put(self, agent: Agent) -> None:
        """Make an agent known, or what changed of it, as the registry would."""
        self.live.directory.put(agent)
        for site in self._sites:
            for shard in site.shards:
                shard.agent_changed(agent.id, agent)
                shard.agents_available()

    def new_site(self) -> "Site":
        """Make a worker that does not work yet."""
        site = Site(self)
        self._sites.append(site)
        return site

    def seize(self, site: "Site", shard: int) -> None:
        """Give both leases of a shard to a worker, whatever Redis thinks of its memory."""
        before = self.raw.config_get("maxmemory")["maxmemory"]
        self.raw.config_set("maxmemory", 0)
        for trade in BOTH:
            site.leases.append(site.lease(shard, trade))
        self.raw.config_set("maxmemory", before)

    async def site(self, *trades: str, shards: Sequence[int] | None = None) -> "Site":
        """Start a worker that holds these trades (both, unless said) of these shards (all)."""
        site = self.new_site()
        for number in range(self.shards) if shards is None else shards:
            site.leases += [site.lease(number, trade) for trade in trades or BOTH]
        await site.work()
        return site

    async def ready_site(self) -> "Site":
        """Start a worker and wait until it has taken over: before that, nothing is handed over directly."""
        site = await self.site()
        await site.until_ready()
        return site

    async def held(self, **more: Any) -> "tuple[Receiver, Agent, Site]":
        """Return a receiver that answers nothing until `let_go`, its agent, which gets one request at a time,
        and a worker that has taken over."""
        self.rules["deadlines"] = PATIENT
        receiver = await self.receiver()
        agent = self.agent(receiver, concurrency=1, **more)
        site = await self.ready_site()
        receiver.hold()
        return receiver, agent, site

    async def send(self, *envelopes: Envelope, waiter: str | None = None) -> list[str]:
        await self.publisher.publish_many(envelopes, waiter=waiter)
        return [envelope.id for envelope in envelopes]

    # --- what came of it ------------------------------------------------------------------------------

    def events(self, *, shard: int | None = None) -> list[Event]:
        """Return everything in the ledger, in order."""
        found: list[Event] = []
        for keys in self.keys if shard is None else [self.keys[shard]]:
            for _, fields in self.raw.xrange(keys.ledger):
                batch = decode_events(fields[b"b"])
                if b"i" in fields:
                    entries = fields[b"i"].decode().split(" ")
                    for event, entry in zip(batch, entries, strict=True):
                        event.mailbox_entry = None if entry == "-" else entry
                found += batch
        return found

    def by_id(self) -> dict[str, list[Event]]:
        grouped: dict[str, list[Event]] = defaultdict(list)
        for event in self.events():
            grouped[event.id].append(event)
        return grouped

    def ends(self) -> dict[str, list[tuple[Status, str | None]]]:
        """Return, per message, how it ended: what the ledger says, as often as it says it."""
        return {
            message: [(event.status, event.reason) for event in events if event.kind is EventKind.SETTLED]
            for message, events in self.by_id().items()
        }

    async def until_ended(self, ids: Iterable[str], *, timeout_s: float = 20) -> None:
        awaited, last = set(ids), {keys.ledger: "-" for keys in self.keys}

        def ended() -> bool:
            # What was read is not read again: ledgers of thousands would be most of what this process does.
            for ledger, start in last.items():
                for entry_id, fields in self.raw.xrange(ledger, min=start):
                    last[ledger] = f"({entry_id.decode()}"
                    events = decode_events(fields[b"b"])
                    awaited.difference_update(one.id for one in events if one.kind is EventKind.SETTLED)
            return not awaited

        await until(ended, timeout_s=timeout_s)

    def left(self) -> dict[str, int]:
        """Return what is still kept of messages: streams by their length, sets by theirs."""
        found: dict[str, int] = {}
        for key in keys_of(self.raw, "ab:{*"):
            name = key.decode()
            part = name.split(":")[2]
            if part in ("inbox", "parked", "ingress", "admitted"):
                found[name] = self.raw.xlen(key) if self.raw.type(key) == b"stream" else -1
            elif part in ("active", "due", "expiry", "later", "chosen"):
                found[name] = self.raw.zcard(key) if self.raw.type(key) == b"zset" else self.raw.hlen(key)
        found |= {keys.direct: self.raw.hlen(keys.direct) for keys in self.keys}
        return {
            name: count for name, count in found.items() if count or ":inbox:" in name or ":parked" in name
        }

    async def until_clean(self, *, timeout_s: float = 15) -> None:
        """Wait until nothing of any message is left in Redis but the ledger."""
        try:
            await until(lambda: not self.left(), timeout_s=timeout_s)
        except TimeoutError:
            raise AssertionError(f"left behind: {self.left()}") from None


class Site:
    """One worker process, in this one."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.shards: list[Shard] = []
        self.leases: list[Lease] = []
        self.failures: list[BaseException] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._connections: list[Connection] = []
        self._house: House | None = None
        self._link: Link | None = None
        self.guard: Guard | None = None

    async def work(self) -> None:
        """Begin to work with the leases there are."""
        world = self.world
        clock = ServerClock()
        async with await open_connection(world.url, name="test") as connection:
            await _measured(clock, connection)
        publisher = Publisher(world.url, shards=world.shards, keys=world.keys_class)
        self._link = Link(world.url, name="site")
        survival = Survival(self._link)
        self._tasks.append(asyncio.ensure_future(survival.run()))
        if world.guard_rules is not None:
            find = world.live.directory.get
            self.guard = Guard(self._link, publisher, clock, world.guard_rules, find_agent=find)
            self.guard.routed_here = lambda: {
                number for number, shard in enumerate(self.shards) if shard.router is not None
            }
            self._tasks.append(asyncio.ensure_future(self.guard.run()))
        self._house = House(
            redis_url=world.url,
            directory=world.live,  # type: ignore[arg-type]  # the part of it that shards use
            client=world.make_client(),
            publisher=publisher,
            replies=Replies(publisher),
            clock=clock,
            stats=DeliveryStats(pushed=world.live.pushed),
            delivery_rules=DeliveryRules(**({"deadlines": DEADLINES, "scale": world.scale} | world.rules)),
            router_rules=RouterRules(shards=world.shards, window_ms=world.window_ms),
            survival=survival,
            drain_s=10,
            guard=self.guard,
            keys=world.keys_class,
            inspector=world.inspector,
        )
        self.shards = [Shard(number, self._house) for number in range(world.shards)]
        for shard in self.shards:
            self._tasks.append(asyncio.ensure_future(self._run(shard)))
        for lease in self.leases:
            await self.shards[lease.shard].start(lease)

    async def _run(self, shard: Shard) -> None:
        try:
            await shard.run()
        except Exception as error:
            self.failures.append(error)
            raise

    def lease(self, shard: int, trade: str) -> Lease:
        """Take a lease, whoever holds it."""
        keys, raw = self.world.keys[shard], self.world.raw
        value = f"{raw.incr(keys.fence(trade))}:{id(self)}"
        raw.set(keys.owner(trade), value)
        return Lease(shard, trade, value, float("inf"))

    async def take(self, shard: int, trade: str) -> Lease:
        """Take a lease, and begin to work with it."""
        lease = self.lease(shard, trade)
        self.leases.append(lease)
        await self.shards[shard].start(lease)
        return lease

    async def give_up(self, lease: Lease, *, gracefully: bool = True) -> None:
        self.leases.remove(lease)
        await self.shards[lease.shard].stop(lease, gracefully=gracefully)

    async def until_ready(self) -> None:
        await until(
            lambda: all(
                shard.delivery is not None and shard.delivery.is_ready
                for shard in self.shards
                if any(lease.trade == "deliver" and lease.shard == shard._keys.shard for lease in self.leases)
            )
        )

    async def stop(self) -> None:
        """End as at SIGTERM: finish what is in flight, then let go."""
        for lease in tuple(self.leases):
            await self.give_up(lease)
        await self.kill()

    async def kill(self) -> None:
        """End as at SIGKILL: nothing more is settled."""
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)
        self._tasks.clear()
        if self._house is not None:
            await self._house.replies.close()
            await self._house.client.aclose()
            await self._house.publisher.close()
            if self._link is not None:
                await self._link.close()
            self._house = None


def message(
    to: Agent | str | None = None, *, lane: Lane = Lane.NORMAL, content: bytes = b'{"a":1}', **more: Any
) -> Envelope:
    priority = more.pop("priority", {Lane.HIGH: 1, Lane.NORMAL: 5, Lane.LOW: 9}[lane])
    return Envelope(
        id=more.pop("id", None) or new_id(),
        to_agent_id=to.id if isinstance(to, Agent) else to,
        priority=priority,
        content=Raw(content),
        metadata=Raw(encode(more.pop("metadata", {}))),
        created_at=more.pop("created_at", datetime.now(UTC)),
        **more,
    )


async def _measured(clock: ServerClock, connection: Connection) -> None:
    """Measure the clock as a worker does at its start: again, where the machine stood still meanwhile."""
    async with asyncio.timeout(15):
        while True:
            with suppress(StreamsUnavailable):
                return await clock.measure(connection)
            await asyncio.sleep(0.05)


async def until(true: Callable[[], bool], *, timeout_s: float = 15) -> None:
    """Wait until something is true that happens in Redis or in another task, and gives no signal.

    What is waited for happens in this very loop, which has it the longer, the longer a look takes.
    """
    async with asyncio.timeout(timeout_s):
        while True:
            began_s = time.monotonic()
            if true():
                return
            left_s = LEFT_TO_OTHERS * (time.monotonic() - began_s)
            await asyncio.sleep(min(max(0.005, left_s), LEFT_TO_OTHERS_S_MAX))


__all__ = ["BOTH", "LANES", "Site", "World", "message", "until"]
