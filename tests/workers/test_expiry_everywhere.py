"""Wherever a message waits when its time has come: it ends there, once, and leaves nothing behind."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from cluster import keys_of
from worker_rig import PATIENT, World, message, until

from schema.ledger import EventKind
from schema.message import Lane, Status
from workers.delivery.expiry import BATCH_MAX

EXPIRED = [(Status.EXPIRED, "expired")]
DELIVERED = [(Status.DELIVERED, None)]


def in_ms(milliseconds: int) -> datetime:
    return datetime.now(UTC) + timedelta(milliseconds=milliseconds)


async def test_queued_in_memory_and_behind_it_in_redis(any_streams_url):
    async with World(any_streams_url) as world:
        world.rules["deadlines"] = PATIENT
        receiver = await world.receiver()
        agent = world.agent(receiver, concurrency=1)
        await world.site()
        receiver.hold()
        [first] = await world.send(message(agent))
        await receiver.until(lambda it: it.under_way == 1)
        at = in_ms(700)
        doomed = await world.send(*(message(agent, expires_at=at) for _ in range(200)))
        kept = await world.send(*(message(agent, expires_at=in_ms(600_000)) for _ in range(50)))
        await world.until_ended(doomed)
        receiver.let_go()
        await world.until_ended([first, *kept])
        assert receiver.ids == [first, *kept]
        ends = world.ends()
        assert {one: ends[one] for one in doomed} == dict.fromkeys(doomed, EXPIRED)
        assert {one: ends[one] for one in kept} == dict.fromkeys(kept, DELIVERED)
        await world.until_clean()


async def test_waiting_for_a_retry(any_streams_url):
    async with World(any_streams_url, scale=1.0) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver)
        receiver.script = lambda _: 500
        await world.site()
        # The first retry, about a second on, still comes in time; the next, after five, would not.
        [sent] = await world.send(message(agent, expires_at=in_ms(60_000)))
        await until(lambda: world.raw.zcard(world.keys[0].due) == 1)
        place = next(iter(world.raw.zrange(world.keys[0].expiry, 0, -1)))
        world.raw.zadd(world.keys[0].expiry, {place: 1})  # its time is now
        await world.until_ended([sent])
        assert world.ends()[sent] == EXPIRED
        assert receiver.times == {sent: 1}
        await world.until_clean()


async def test_a_retry_that_would_come_too_late_ends_at_once(any_streams_url):
    async with World(any_streams_url, scale=60.0) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver)
        receiver.script = lambda _: 500
        await world.site()
        at = in_ms(15_000)
        [sent] = await world.send(message(agent, expires_at=at))
        await world.until_ended([sent])
        assert datetime.now(UTC) < at
        assert world.ends()[sent] == EXPIRED
        assert receiver.times == {sent: 1}
        await world.until_clean()


async def test_in_the_mailbox_of_a_puller_and_parked(any_streams_url):
    async with World(any_streams_url) as world:
        puller = world.agent()
        site = await world.site()
        pulled = await world.send(*(message(puller, expires_at=in_ms(400)) for _ in range(150)))
        parked = await world.send(
            *(message(requirements=["sums"], expires_at=in_ms(400)) for _ in range(150))
        )
        await world.until_ended([*pulled, *parked])
        assert all(world.ends()[one] == EXPIRED for one in (*pulled, *parked))
        assert not world.raw.exists(world.keys[0].expiry)
        site.shards[0].agents_available()  # or half a minute later
        await until(lambda: not keys_of(world.raw, "ab:{0}:parked*"))


async def test_on_arrival(any_streams_url):
    async with World(any_streams_url) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver, capabilities=("sums",))
        await world.site()
        ids = await world.send(
            message(agent, expires_at=in_ms(-1)),
            message(requirements=["sums"], expires_at=in_ms(-1)),
            message(requirements=["none"], expires_at=in_ms(-100_000_000_000)),
        )
        await world.until_ended(ids)
        assert all(world.ends()[one] == EXPIRED for one in ids)
        assert not receiver.got
        await world.until_clean()


async def test_in_flight_is_left_to_its_result(any_streams_url):
    async with World(any_streams_url) as world:
        world.rules["deadlines"] = PATIENT
        receiver = await world.receiver()
        agent = world.agent(receiver)
        await world.site()
        receiver.hold()
        [sent] = await world.send(message(agent, expires_at=in_ms(600_000)))
        await receiver.until(lambda it: it.under_way == 1)
        expiry = world.keys[0].expiry
        world.raw.zadd(expiry, dict.fromkeys(world.raw.zrange(expiry, 0, -1), 1))  # its time is now
        await asyncio.sleep(1.2)  # two looks at what has expired
        assert not world.ends().get(sent)
        receiver.let_go()
        await world.until_ended([sent])
        assert world.ends()[sent] == [(Status.DELIVERED, None)]
        await world.until_clean()


async def test_behind_many_that_are_in_flight(any_streams_url):
    """More are under way, and past their time, than one look takes."""
    async with World(any_streams_url) as world:
        world.rules["deadlines"] = PATIENT
        receiver = await world.receiver()
        busy = [world.agent(receiver, concurrency=64) for _ in range(5)]
        puller = world.agent()
        await world.site()
        receiver.hold()
        at, expiry = in_ms(600_000), world.keys[0].expiry
        under_way = await world.send(
            *(message(agent, expires_at=at) for agent in busy for _ in range(2 * BATCH_MAX // 5 + 1))
        )
        await receiver.until(lambda it: it.under_way == len(under_way))
        world.raw.zadd(expiry, dict.fromkeys(world.raw.zrange(expiry, 0, -1), 1))  # their time is now
        doomed = await world.send(*(message(puller, expires_at=in_ms(600_000)) for _ in range(10)))
        await until(lambda: world.raw.zcard(expiry) == len(under_way) + len(doomed))
        world.raw.zadd(expiry, dict.fromkeys(world.raw.zrange(expiry, len(under_way), -1), 2))
        await world.until_ended(doomed)
        assert {world.ends()[one][0] for one in doomed} == set(EXPIRED)
        assert not [one for one in under_way if world.ends().get(one)]
        receiver.let_go()
        await world.until_ended(under_way)
        assert {one: world.ends()[one] for one in under_way} == dict.fromkeys(under_way, DELIVERED)
        await until(lambda: not world.raw.exists(expiry))


async def test_behind_an_open_breaker_without_an_attempt(any_streams_url):
    async with World(any_streams_url, scale=1.0) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver)
        receiver.script = lambda _: 500
        await world.site()
        breaking = await world.send(*(message(agent, metadata={"retry_policy": "none"}) for _ in range(5)))
        await world.until_ended(breaking)
        doomed = await world.send(
            *(message(agent, lane=Lane.HIGH, expires_at=in_ms(500)) for _ in range(100))
        )
        await world.until_ended(doomed)
        assert all(world.ends()[one] == EXPIRED for one in doomed)
        assert len(receiver.got) == 5
        attempts = [one for one in world.events() if one.attempt is not None]
        assert len(attempts) == 5
        await world.until_clean()


@pytest.mark.parametrize("kills", [1, 3])
async def test_expired_once_whoever_owns_the_shard(any_streams_url, kills):
    async with World(any_streams_url) as world:
        receiver = await world.receiver()
        agent, puller = world.agent(receiver), world.agent()
        receiver.hold()
        site = await world.site()
        ids = await world.send(
            *(message(to, expires_at=in_ms(600 + 5 * n)) for n in range(150) for to in (agent, puller))
        )
        for _ in range(kills):
            await asyncio.sleep(0.4)
            await site.kill()
            site = await world.site()
        await until(lambda: sum(map(bool, world.ends().values())) >= len(ids) - 4)
        receiver.let_go()
        await world.until_ended(ids)
        assert [ends for ends in world.ends().values() if len(ends) != 1] == []
        assert {event.kind for event in world.events()} <= {EventKind.ROUTED, EventKind.SETTLED}
