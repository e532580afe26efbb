"""Routing and delivery in processes of their own: the doorbell, and what finds a ring that was lost."""

import asyncio

from cluster import one_server
from worker_rig import World, message, until

from schema.message import LANES, Lane
from workers import doorbell


@one_server  # of a cluster, CLIENT LIST is one node's
async def test_a_ring_is_answered_and_no_sweep_is_waited_for(any_streams_url, monkeypatch):
    monkeypatch.setattr(doorbell, "SWEEP_S", 3_600.0)
    async with World(any_streams_url) as world:
        receiver = await world.receiver()
        agents = [world.agent(receiver) for _ in range(20)]
        await world.site("route")
        delivery = await world.site("deliver")
        await delivery.until_ready()
        await until(lambda: b"worker-doorbell-0" in world.raw.execute_command("CLIENT", "LIST"))
        for lane in LANES:
            ids = await world.send(*(message(agent, lane=lane) for agent in agents for _ in range(20)))
            await world.until_ended(ids)
        assert set(receiver.times.values()) == {1}
        await world.until_clean()


async def test_a_lost_ring_is_found_by_the_sweep(any_streams_url, monkeypatch):
    monkeypatch.setattr(doorbell, "SWEEP_S", 2.0)
    async with World(any_streams_url) as world:
        receiver = await world.receiver()
        agents = [world.agent(receiver) for _ in range(50)]
        delivery = await world.site("deliver")
        await delivery.until_ready()
        doorstep = world.keys[0].doorbell
        world.raw.set(doorstep, "not a stream")  # nobody can ring here, and nobody hears
        router = await world.site("route")
        await asyncio.sleep(0.1)
        world.raw.delete(doorstep)
        del router
        ids = []
        for _ in range(10):
            ids += await world.send(*(message(agent) for agent in agents))
            world.raw.delete(doorstep)
        await world.until_ended(ids)
        assert receiver.times == dict.fromkeys(ids, 1)
        await world.until_clean()


async def test_a_router_that_moves_to_another_process_keeps_the_bell_ringing(any_streams_url):
    """And back: the delivery owner, meanwhile, stays the same."""
    async with World(any_streams_url) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver)
        both = await world.site()
        await both.until_ready()
        other = await world.site("route", shards=[])
        ids = await world.send(*(message(agent) for _ in range(50)))
        delivery = both.shards[0].delivery
        for _ in range(3):
            [lease] = [one for one in both.leases if one.trade == "route"]
            await both.give_up(lease)
            away = await other.take(0, "route")
            ids += await world.send(*(message(agent, lane=Lane.HIGH) for _ in range(50)))
            await world.until_ended(ids)
            await other.give_up(away)
            await both.take(0, "route")
            ids += await world.send(*(message(agent, lane=Lane.LOW) for _ in range(50)))
            await world.until_ended(ids)
        assert receiver.times == dict.fromkeys(ids, 1)
        assert both.shards[0].delivery is delivery
        await world.until_clean()


async def test_deliveries_that_move_between_processes_lose_and_repeat_nothing(any_streams_url):
    async with World(any_streams_url) as world:
        receiver = await world.receiver()
        agents = [world.agent(receiver) for _ in range(10)]
        await world.site("route")
        one, other = await world.site("deliver"), await world.site("deliver", shards=[])
        ids: list[str] = []
        for turn in range(6):
            ids += await world.send(*(message(agent) for agent in agents for _ in range(30)))
            giving, taking = (one, other) if turn % 2 == 0 else (other, one)
            await giving.give_up(giving.leases[0])
            ids += await world.send(*(message(agent) for agent in agents for _ in range(30)))
            await taking.take(0, "deliver")
        await world.until_ended(ids, timeout_s=90)
        assert receiver.times == dict.fromkeys(ids, 1)
        await world.until_clean()
