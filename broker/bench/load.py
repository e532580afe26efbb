"""The publisher: one process that publishes natively, flat out or in an open loop of exact times.

Two ways: `native` is the product's publisher; `bare` appends entries of the same messages to one stream,
for the ceiling. Flat out, a few calls are under way at a time, each of as many messages as an entry holds,
and the publisher goes on as they are answered. Paced, nothing waits for an answer, and every message carries
the time it was meant to be sent (`sent_ns`), also when it leaves late.
"""

import asyncio
from collections.abc import Callable, Coroutine
from time import monotonic_ns, time_ns
from typing import Final

import msgspec
import uvloop

from broker.bench.bare import RedisWire
from broker.bench.ceiling import STREAM
from broker.bench.control import Nothing, obey
from broker.bench.pace import Schedule
from broker.bench.payload import Fleet, compose, first_id_at
from broker.bench.ticks import ticking
from broker.client.streams import StreamPublisher
from schema.codec import encode
from schema.limits import PUBLISH_MESSAGES_PER_ENTRY_MAX
from schema.message import Envelope

CALLS_IN_FLIGHT: Final = 16
"""Publish calls under way flat out: enough to share fsyncs, few enough to notice a broker that is slow."""
LEAD_NS: Final = 50_000_000
"""The first message of a paced run is due this long after the order, so that it does not begin late."""

Publish = Callable[[list[Envelope]], Coroutine[None, None, object]]


class LoadOrder(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`do`: open | publish (`count` messages, `way`, `rate` a second or 0 for flat out) | close."""

    do: str
    redis_url: str = ""
    fleet: Fleet | None = None
    count: int = 0
    rate: int = 0
    way: str = "native"


class LoadReport(msgspec.Struct, kw_only=True):
    """When the first publish began and the last was answered, between which ids all of them lie, and how late
    the worst of a paced run left."""

    first_ns: int
    last_ns: int
    low_id: str = ""
    high_id: str = ""
    late_ms_max: float = 0.0


class Load:
    """The two publishers and who is published to."""

    def __init__(self, native: StreamPublisher, wire: RedisWire, fleet: Fleet) -> None:
        self._native = native
        self._wire = wire
        self._fleet = fleet

    @classmethod
    async def open(cls, order: LoadOrder) -> "Load":
        if order.fleet is None:
            raise ValueError("nobody to publish to")
        native = await StreamPublisher.open(order.redis_url)
        return cls(native, await RedisWire.connect(order.redis_url), order.fleet)

    async def publish(self, order: LoadOrder) -> LoadReport:
        """Publish what the order says; return when the last message is on disk."""
        publish: Publish = self._publish_bare if order.way == "bare" else self._native.publish_many
        low_id = first_id_at(now_ms())
        if order.rate:
            report = await self._paced(publish, order.count, order.rate)
        else:
            report = await self._flat_out(publish, order.count)
        report.low_id, report.high_id = low_id, first_id_at(now_ms() + 1)
        return report

    async def close(self) -> None:
        await self._native.close()
        self._wire.close()

    async def _flat_out(self, publish: Publish, count: int) -> LoadReport:
        first_ns = monotonic_ns()
        starts = iter(range(0, count, PUBLISH_MESSAGES_PER_ENTRY_MAX))

        async def caller() -> None:
            for start in starts:
                stop = min(start + PUBLISH_MESSAGES_PER_ENTRY_MAX, count)
                sent_ns = monotonic_ns()
                await publish([compose(number, sent_ns, self._fleet) for number in range(start, stop)])

        async with asyncio.TaskGroup() as tasks:
            for _ in range(CALLS_IN_FLIGHT):
                tasks.create_task(caller())
        return LoadReport(first_ns=first_ns, last_ns=monotonic_ns())

    async def _paced(self, publish: Publish, count: int, rate: int) -> LoadReport:
        start_ns = monotonic_ns() + LEAD_NS
        pace = Pace(publish, self._fleet, Schedule(start_ns, rate=rate), count)
        with ticking(start_ns, interval_ns=1_000_000_000 // rate, tick=pace.tick):
            await pace.finished
        await asyncio.gather(*pace.publishing)
        return LoadReport(first_ns=start_ns, last_ns=monotonic_ns(), late_ms_max=pace.late_ns / 1e6)

    async def _publish_bare(self, batch: list[Envelope]) -> None:
        fields: list[str | bytes] = []
        for envelope in batch:
            fields += ("m", encode(envelope))
        await self._wire.call("XADD", STREAM, "*", *fields)


class Pace:
    """A paced run: at every tick, what is due leaves, whatever became of what left before."""

    def __init__(self, publish: Publish, fleet: Fleet, schedule: Schedule, count: int) -> None:
        self.finished = asyncio.get_running_loop().create_future()
        self.publishing: set[asyncio.Future[object]] = set()
        self.late_ns = 0
        self._publish = publish
        self._fleet = fleet
        self._schedule = schedule
        self._count = count
        self._done = 0

    def tick(self) -> None:
        """Publish what is due by now."""
        now_ns = monotonic_ns()
        due = min(self._schedule.due_by(now_ns), self._count)
        if due == self._done:
            return
        self.late_ns = max(self.late_ns, now_ns - self._schedule.due_ns(self._done))
        numbers = range(self._done, due)
        batch = [compose(number, self._schedule.due_ns(number), self._fleet) for number in numbers]
        self._done = due
        publishing = asyncio.ensure_future(self._publish(batch))
        self.publishing.add(publishing)
        publishing.add_done_callback(self._published)
        if due == self._count:
            self.finished.set_result(None)

    def _published(self, publishing: "asyncio.Future[object]") -> None:
        # A failure stays in the set, for the gathering at the end to raise.
        if publishing.cancelled() or publishing.exception() is None:
            self.publishing.discard(publishing)


async def serve() -> None:
    """Publish as the driver says, until the driver goes away."""
    load: Load | None = None

    async def handle(line: bytes) -> msgspec.Struct:
        nonlocal load
        order = msgspec.json.decode(line, type=LoadOrder)
        if order.do == "open":
            load = await Load.open(order)
        elif load is None:
            raise ValueError("not open")
        elif order.do == "publish":
            return await load.publish(order)
        elif order.do == "close":
            await load.close()
        return Nothing()

    await obey(handle)


def now_ms() -> int:
    """Return the wall clock, which UUIDv7s are made of."""
    return time_ns() // 1_000_000


if __name__ == "__main__":
    uvloop.run(serve())
