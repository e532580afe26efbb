"""Agents that have just been given an endpoint: what waits for them is pushed; those for whom nothing waits
cost nothing."""

import msgspec
import pytest
from worker_rig import World, message, until

from schema.codec import encode
from schema.ids import new_id
from schema.message import LANES, Lane
from workers.delivery import newcomers


async def test_agents_for_whom_nothing_waits_open_no_books(any_streams_url):
    async with World(any_streams_url) as world:
        receiver = await world.receiver()
        site = await world.site()
        await site.until_ready()
        delivery = site.shards[0].delivery
        agents = [world.agent(receiver) for _ in range(50)]
        # On the same connection, so the answers about all of them have come before this one.
        await delivery._connection.send("PING")
        assert not delivery.room.mailboxes
        assert not delivery.room.endpoints
        assert not world.raw.exists(world.keys[0].active)
        ids = await world.send(*(message(agent) for agent in agents))
        await world.until_ended(ids)


async def test_what_is_routed_right_after_the_endpoint_came_goes_behind_what_waited(any_streams_url):
    async with World(any_streams_url) as world:
        receiver = await world.receiver()
        agent = world.agent(concurrency=1)
        await world.site()
        ids = await world.send(*(message(agent) for _ in range(40)))
        await until(lambda: len(world.events()) == len(ids))
        world.put(msgspec.structs.replace(agent, endpoint=receiver.url()))
        ids += await world.send(*(message(agent, lane=lane) for lane in LANES for _ in range(20)))
        await world.until_ended(ids)
        assert receiver.times == dict.fromkeys(ids, 1)
        await world.until_clean()


async def test_what_a_router_put_there_that_had_not_heard_of_the_endpoint_is_found(
    any_streams_url, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(newcomers, "AGAIN_MS", 200)
    async with World(any_streams_url) as world:
        receiver = await world.receiver()
        site = await world.site()
        await site.until_ready()
        agent = world.agent(receiver)
        await site.shards[0].delivery._connection.send("PING")
        late = msgspec.structs.replace(message(agent), id=new_id())
        world.raw.xadd(world.keys[0].mailbox(agent.id, Lane.NORMAL), {"m": encode(late)})
        await world.until_ended([late.id])
        assert receiver.times == {late.id: 1}
        await world.until_clean()


async def test_an_endpoint_at_another_address_is_not_kept_waiting_for_what_the_former_one_did(streams_url):
    async with World(streams_url, scale=1_000) as world:
        broken, working = await world.receiver(), await world.receiver()
        broken.script = lambda _: 500
        agent = world.agent(broken)
        site = await world.site()
        await site.until_ready()
        ids = await world.send(*(message(agent) for _ in range(30)))
        room = site.shards[0].delivery.room
        await until(lambda: agent.id in room.endpoints and room.endpoints[agent.id].breaker.retry_at_ms > 0)
        world.put(msgspec.structs.replace(agent, endpoint=working.url()))
        # Breakers and retries of the former address wait for more than an hour. What is on its way there may
        # arrive later than now.
        await until(lambda: set(working.times) | {got.id for got in broken.got} >= set(ids))
