"""A message that kills its worker every time is buried after a bounded number of deaths; whatever was beside
it is delivered, and workers that die for other reasons bury nobody."""

import asyncio
import time

import pytest
from cluster import keys_of, servers_of
from receiver import Got
from worker_rig import PATIENT, Site, World, message, until

from schema.ids import new_id
from schema.message import Status
from workers.delivery.trials import POISON_DEATHS, SUSPICIOUS_DEATHS

DELIVERED = [(Status.DELIVERED, None)]
POISON = [(Status.FAILED, "poison")]


async def serve_until_ended(world: World, receiver, poison: set[str], ids: list[str]) -> int:
    """Let workers die of what is poison until everything has ended; return how many did."""
    struck = asyncio.Event()

    async def answer(got: Got) -> int:
        if got.id in poison:
            struck.set()
            await asyncio.Event().wait()
        return 200

    receiver.script = answer
    deaths = 0
    while True:
        struck.clear()
        site: Site = await world.site()
        dying = asyncio.ensure_future(struck.wait())
        ending = asyncio.ensure_future(world.until_ended(ids, timeout_s=20))
        await asyncio.wait((dying, ending), return_when=asyncio.FIRST_COMPLETED)
        dying.cancel()
        if ending.done():
            await ending
            return deaths
        ending.cancel()
        await site.kill()
        deaths += 1
        # What the dead one still had on the wire must strike nobody else.
        await receiver.cut()


@pytest.mark.parametrize("count", [1, 3])
async def test_what_kills_its_worker_is_buried_and_what_was_beside_it_is_delivered(streams_url, count):
    async with World(streams_url) as world:
        receiver = await world.receiver()
        agents = [world.agent(receiver) for _ in range(4)]
        poison = [message(agents[number], id=new_id()) for number in range(count)]
        others = [message(agent) for _ in range(15) for agent in agents]
        router = await world.site("route")
        ids = await world.send(*others[:30], *poison, *others[30:])
        await until(
            lambda: sum(world.raw.xlen(key) for key in keys_of(world.raw, "ab:*:inbox:*")) == len(ids)
        )
        await router.stop()
        killers = {one.id for one in poison}
        deaths = await serve_until_ended(world, receiver, killers, ids)
        ends = world.ends()
        assert all(ends[one] == (POISON if one in killers else DELIVERED) for one in ids)
        assert deaths <= SUSPICIOUS_DEATHS + count * POISON_DEATHS
        # Nothing is left of it, and no attempt was lost sight of: each message came at least once.
        assert set(receiver.ids) == set(ids)
        await world.until_clean()


async def test_workers_that_die_of_something_else_bury_nobody(streams_url):
    """Killed again and again with the same requests under way: held long, they are still no poison."""
    async with World(streams_url) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver)
        receiver.hold()
        ids = await world.send(*(message(agent) for _ in range(20)))
        for _ in range(POISON_DEATHS):
            seen = len(receiver.got)
            site = await world.site()
            await receiver.until(lambda it, seen=seen: len(it.got) > seen)
            await site.kill()
        receiver.let_go()
        await world.site()
        await world.until_ended(ids)
        assert all(ends == DELIVERED for ends in world.ends().values())


async def test_leases_that_are_lost_by_workers_that_live_bury_nobody(streams_url):
    """As under a Redis that comes and goes: one message under way whenever a lease is lost."""
    async with World(streams_url) as world:
        world.rules["deadlines"] = PATIENT
        keys, receiver = world.keys[0], await world.receiver()
        agent = world.agent(receiver)
        receiver.hold()
        ids = await world.send(message(agent))
        former: Site | None = None
        for count in range(1, SUSPICIOUS_DEATHS + POISON_DEATHS + 2):
            site = await world.site()
            await receiver.until(lambda it, count=count: len(it.got) == count)
            if former is not None:
                for lease in tuple(former.leases):
                    await former.give_up(lease, gracefully=False)
                await until(lambda: not int(world.raw.get(keys.deaths) or 0))
            former = site
        receiver.let_go()
        await world.until_ended(ids)
        assert world.ends()[ids[0]] == DELIVERED


async def test_who_takes_a_lost_lease_again_holds_it_against_nobody_and_forgets_no_death(streams_url):
    """Whatever was known of messages that really were under way at deaths stays known."""
    async with World(streams_url) as world:
        world.rules["deadlines"] = PATIENT
        keys, receiver = world.keys[0], await world.receiver()
        agent = world.agent(receiver)
        receiver.hold()
        ids = await world.send(message(agent))
        for count in range(1, SUSPICIOUS_DEATHS + 2):
            site = await world.site()
            await receiver.until(lambda it, count=count: len(it.got) == count)
            await site.kill()
        known = (b"%d" % (SUSPICIOUS_DEATHS + 1), [b"2"])  # of which the last is that of who lives now
        site = await world.site()
        for count in range(SUSPICIOUS_DEATHS + 2, SUSPICIOUS_DEATHS + POISON_DEATHS + 3):
            await receiver.until(lambda it, count=count: len(it.got) == count)
            assert (world.raw.get(keys.deaths), world.raw.hvals(keys.trials)) == known
            await site.give_up(site.leases[-1], gracefully=False)
            await site.take(0, "deliver")
        receiver.let_go()
        await world.until_ended(ids)
        assert world.ends()[ids[0]] == DELIVERED


async def test_a_suspect_is_signed_when_it_is_posted_not_when_it_began_to_wait(streams_url):
    """Receivers refuse signatures that are minutes old, and that many suspects wait for longer."""
    async with World(streams_url) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver)
        receiver.hold()
        ids = await world.send(*(message(agent) for _ in range(2)))
        for count in range(1, SUSPICIOUS_DEATHS + 2):
            site = await world.site()
            await receiver.until(lambda it, count=count: len(it.got) == 2 * count)
            await site.kill()
        former = len(receiver.got)
        await world.site()
        await receiver.until(lambda it: len(it.got) > former)
        await asyncio.sleep(2.1)  # the first is on trial, and the second waits for its turn
        assert len(receiver.got) == former + 1
        let_go_s = int(time.time())
        receiver.let_go()
        await world.until_ended(ids)
        assert int(receiver.got[-1].headers["webhook-timestamp"]) >= let_go_s


async def test_stops_in_good_order_and_lost_connections_are_no_deaths(streams_url):
    async with World(streams_url) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver)
        for _ in range(SUSPICIOUS_DEATHS + 1):
            site = await world.site()
            await world.until_ended(await world.send(message(agent)))
            await site.stop()
        site = await world.site()
        for _ in range(SUSPICIOUS_DEATHS + 1):
            await site.until_ready()
            delivery = site.shards[0].delivery
            for server in servers_of(world.raw):
                server.client_kill_filter(_type="normal", skipme=True)
            await until(lambda delivery=delivery: site.shards[0].delivery not in (delivery, None))
        await world.until_ended(await world.send(message(agent)))
        assert world.raw.exists(world.keys[0].deaths, world.keys[0].trials) == 0
        delivery = site.shards[0].delivery
        assert delivery is not None
        assert delivery.dispatch.trials is None


async def test_suspicion_ends_after_a_while_without_a_death(streams_url):
    async with World(streams_url) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver)
        for _ in range(SUSPICIOUS_DEATHS):
            site = await world.site()
            await site.until_ready()
            await site.kill()
        site = await world.site()
        await site.until_ready()
        delivery = site.shards[0].delivery
        assert delivery is not None
        assert delivery.dispatch.trials is not None
        await world.until_ended(await world.send(*(message(agent) for _ in range(20))))
        delivery._trials._calm_ms = 0  # as after CALM_MS
        await until(lambda: delivery.dispatch.trials is None)
        await world.until_ended(await world.send(*(message(agent) for _ in range(20))))
        assert world.raw.exists(world.keys[0].deaths, world.keys[0].trials) == 0
        assert set(receiver.times.values()) == {1}
