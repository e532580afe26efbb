"""Redis at its memory limit: nothing new comes in, what is there is worked off, and then it goes on."""

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pytest
import redis
from cluster import one_server
from worker_rig import World, message, until

from broker.streams.clock import ServerClock
from broker.streams.connection import open_connection
from broker.streams.deployment import agree_on_shards
from broker.streams.link import Link
from broker.streams.ownership import Leases
from broker.streams.presence import Presence
from schema.codec import encode
from schema.errors import StreamsFull
from schema.message import Envelope, Lane, Status
from workers.tenancy import Tenancy

pytestmark = one_server

LIMIT = 4_000_000


@contextmanager
def full(raw: redis.Redis) -> Iterator[None]:
    """Put Redis at its limit for a while."""
    before = raw.config_get("maxmemory")["maxmemory"]
    raw.set("ballast", b"x" * 2 * LIMIT)
    raw.config_set("maxmemory", LIMIT)
    try:
        yield
    finally:
        raw.config_set("maxmemory", before)
        raw.delete("ballast")


async def until_refused(raw: redis.Redis, *, times: int = 1) -> None:
    """Wait until Redis has refused so many more commands for want of memory."""

    def refused() -> int:
        return int(raw.info("errorstats").get("errorstat_OOM", {"count": 0})["count"])

    before = refused()
    await until(lambda: refused() >= before + times)


def slip_in(world: World, sent: Iterable[Envelope]) -> None:
    """Put messages into the ingress of a full Redis, as if they had come just before the limit."""
    world.raw.config_set("maxmemory", 0)
    pipe = world.raw.pipeline(transaction=True)
    for one in sent:
        pipe.xadd(world.keys[0].ingress[Lane.NORMAL], {"m": encode(one)})
    pipe.config_set("maxmemory", LIMIT)
    pipe.execute()


async def test_deliveries_retries_and_takeovers_go_on(any_streams_url):
    async with World(any_streams_url, scale=0.05) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver)

        def answer(got):
            return 500 if got.attempt == 1 and got.message["content"]["n"] % 10 == 0 else 200

        receiver.script = answer
        first = await world.site()
        receiver.hold()
        ids = await world.send(*(message(agent, content=b'{"n":%d}' % n) for n in range(100)))
        await receiver.until(lambda it: it.under_way == 4)
        await until(lambda: not world.raw.xlen(world.keys[0].ingress[Lane.NORMAL]))
        second = world.new_site()
        with full(world.raw):
            receiver.let_go()
            await receiver.until(lambda it: len(it.got) >= 30)
            await first.kill()
            world.seize(second, 0)
            await second.work()
            await world.until_ended(ids, timeout_s=30)
        assert first.failures == second.failures == []
        assert {ends[-1] for ends in world.ends().values()} == {(Status.DELIVERED, None)}
        # Once; once more for its retry; once more where the takeover met it.
        assert max(receiver.times.values()) <= 3
        assert sum(receiver.times.values()) <= 110 + 128 + 4
        await world.until_clean()


async def test_a_refused_route_call_is_tried_again_and_disturbs_no_delivery(any_streams_url):
    async with World(any_streams_url) as world:
        receiver = await world.receiver()
        agent, other = world.agent(receiver), world.agent(receiver, concurrency=1)
        site = await world.site()
        receiver.hold()
        ids = await world.send(*(message(agent) for _ in range(4)))
        await receiver.until(lambda it: it.under_way == 4)
        delivery = site.shards[0].delivery
        late = [message(other) for _ in range(300)]
        with full(world.raw):
            slip_in(world, late)
            await until_refused(world.raw, times=2)  # the router is, waits, is again
            assert not any(world.raw.exists(world.keys[0].mailbox(other.id, lane)) for lane in Lane)
        receiver.let_go()
        await world.until_ended([*ids, *(one.id for one in late)])
        assert receiver.times == dict.fromkeys([*ids, *(one.id for one in late)], 1)
        assert [one for one in receiver.ids if one not in ids] == [one.id for one in late]
        assert site.shards[0].delivery is delivery
        await world.until_clean()


async def test_a_refused_choice_stays_the_same_choice(any_streams_url):
    async with World(any_streams_url, shards=2) as world:
        receiver = await world.receiver()
        for shard in (0, 1):
            for _ in range(10):
                world.agent(receiver, shard=shard, capabilities=("sums",))
        await world.site()
        late = [message(requirements=["sums"]) for _ in range(300)]
        with full(world.raw):
            slip_in(world, late)
            await until_refused(world.raw, times=2)
        await world.until_ended([one.id for one in late])
        assert receiver.times == {one.id: 1 for one in late}
        await world.until_clean()


async def test_what_is_parked_waits_for_memory_and_disturbs_no_delivery(any_streams_url):
    async with World(any_streams_url) as world:
        receiver = await world.receiver()
        site = await world.site()
        ids = await world.send(*(message(requirements=["sums"]) for _ in range(50)))
        await until(lambda: len(world.events()) == 50)
        delivery = site.shards[0].delivery
        with full(world.raw):
            world.agent(receiver, capabilities=("sums",))
            await until_refused(world.raw)
        site.shards[0].agents_available()
        await world.until_ended(ids)
        assert site.shards[0].delivery is delivery
        await world.until_clean()


class Idle:
    """A tenant with nothing to do."""

    def __init__(self) -> None:
        self.held: list[int] = []

    async def start(self, lease):
        self.held.append(lease.shard)

    async def stop(self, lease, *, gracefully):
        self.held.remove(lease.shard)


async def test_a_process_can_start_take_leases_keep_them_and_leave(any_streams_url):
    """Or nobody could take over from one that died, and nothing would ever be worked off."""
    async with World(any_streams_url) as world:
        async with await open_connection(any_streams_url, name="test") as connection:
            await agree_on_shards(connection, 2)
        with full(world.raw):
            async with await open_connection(any_streams_url, name="test") as connection:
                await agree_on_shards(connection, 2)
                leases = Leases(trade="deliver", process="a", shards=2, lease_ms=30_000)
                clock = ServerClock()
                await clock.measure(connection)
                assert await leases.due(connection, now_ms=clock.now_ms()) == 2
                assert len(await leases.take(connection, up_to=2)) == 2
                assert await leases.renew(connection) == []
                await leases.leave(connection)
            link, idle, stopping = Link(any_streams_url, name="test"), Idle(), asyncio.Event()
            clock = ServerClock()
            tenancy = Tenancy(
                link, clock, trade="deliver", process="b", shards=2, lease_ms=30_000, tenant=idle
            )
            running = asyncio.ensure_future(tenancy.run(stopping))
            await until(lambda: len(idle.held) == 2)
            with pytest.raises(StreamsFull):
                await Presence(link, shards=2).heartbeat("somebody")
            stopping.set()
            await running
            await link.close()
