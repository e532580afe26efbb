"""What was handed over directly to an agent that is paused, or taken back by its sender: nothing is stuck."""

import pytest
from msgspec.structs import replace
from worker_rig import PATIENT, World, message, until

from broker.streams.link import Link
from broker.streams.mailbox import Mailboxes
from schema.agent import AgentStatus
from schema.message import Lane, Status
from workers import router
from workers.delivery import announcing
from workers.moving import Mover

DELIVERED = [(Status.DELIVERED, None)]


def in_mailbox(world, agent):
    return world.raw.xlen(world.keys[0].mailbox(agent.id, Lane.NORMAL))


async def test_what_was_told_and_not_posted_is_posted_when_its_agent_is_active_again(streams_url):
    async with World(streams_url) as world:
        receiver, agent, site = await world.held()
        ids = await world.send(*(message(agent) for _ in range(10)))
        await until(lambda: set(ids) <= world.by_id().keys())
        world.put(replace(agent, status=AgentStatus.PAUSED))
        receiver.let_go()
        await world.until_ended(ids[:1])
        world.put(agent)
        await world.until_ended(ids)
        assert world.ends() == dict.fromkeys(ids, DELIVERED)
        assert site.shards[0].delivery.room.out_of_turn == set()
        await world.until_clean()


async def test_what_is_put_into_its_mailbox_while_its_agent_is_paused_is_posted_later(
    streams_url, monkeypatch
):
    monkeypatch.setattr(announcing, "ANNOUNCE_MS", 0)
    async with World(streams_url) as world:
        receiver, agent, site = await world.held()
        room, shelver = site.shards[0].delivery.room, site.shards[0].delivery.shelver
        sent, send = [], shelver._send

        def paused(items, **how):
            send(items, **how)
            if not sent:
                sent.append(items)
                world.put(replace(agent, status=AgentStatus.PAUSED))

        shelver._send = paused
        ids = await world.send(*(message(agent) for _ in range(10)))
        await until(lambda: set(ids) <= world.by_id().keys())
        receiver.let_go()
        await world.until_ended(ids[:1])
        world.put(agent)
        await world.until_ended(ids)
        assert world.ends() == dict.fromkeys(ids, DELIVERED)
        assert room.out_of_turn == set()
        assert room.queued == 0
        await world.until_clean()


@pytest.mark.usefixtures("never_told")
async def test_what_is_left_for_a_paused_agent_is_found_by_whoever_is_there_when_it_is_active(streams_url):
    async with World(streams_url) as world:
        receiver, agent, first = await world.held()
        ids = await world.send(*(message(agent) for _ in range(10)))
        await until(lambda: world.raw.hlen(world.keys[0].direct) == 10)
        await first.kill()
        receiver.let_go()
        world.put(replace(agent, status=AgentStatus.PAUSED))
        second = await world.site()
        await until(lambda: in_mailbox(world, agent) == 10)
        await second.until_ready()
        await second.kill()
        world.put(agent)
        await world.site()
        await world.until_ended(ids)
        await world.until_clean()


@pytest.mark.usefixtures("never_told")
async def test_what_fails_while_its_agent_is_paused_is_found_by_the_next_owner(streams_url):
    async with World(streams_url) as world:
        receiver, agent, _ = await world.held()
        receiver.script = lambda got: 503
        await world.send(message(agent))
        await receiver.until(lambda it: it.under_way == 1)
        world.put(replace(agent, status=AgentStatus.PAUSED))
        receiver.let_go()
        await until(lambda: in_mailbox(world, agent) == 1)
        assert world.raw.zscore(world.keys[0].active, world.keys[0].mailbox(agent.id, Lane.NORMAL))


async def test_what_is_taken_back_while_it_waits_is_not_remembered(streams_url):
    async with World(streams_url) as world:
        receiver, agent, site = await world.held()
        posted, waiting = await world.send(message(agent), message(agent))
        await until(lambda: {posted, waiting} <= world.by_id().keys())
        [event] = world.by_id()[waiting]
        link = Link(streams_url, name="sender")
        assert await Mailboxes(link, shards=1).discard(agent.id, Lane.NORMAL, event.mailbox_entry)
        await link.close()
        last = await world.send(message(agent))
        await until(lambda: last[0] in world.by_id())
        receiver.let_go()
        await world.until_ended([posted, *last])
        room = site.shards[0].delivery.room
        await until(lambda: not room.out_of_turn)


@pytest.mark.usefixtures("never_told")
async def test_the_record_knows_where_a_retry_waits_that_failed_before_it_was_told(streams_url):
    """Or its sender could not take it back there, and it would be posted all the same."""
    async with World(streams_url, scale=1) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver)
        receiver.script = lambda got: 503
        await world.ready_site()
        [tried] = await world.send(message(agent))
        await until(lambda: tried in world.by_id())
        [event] = world.by_id()[tried]
        [(entry, _)] = world.raw.xrange(world.keys[0].mailbox(agent.id, Lane.NORMAL))
        assert event.mailbox_entry == entry.decode()


@pytest.mark.usefixtures("never_told")
async def test_an_agent_that_wants_order_from_now_on_gets_it_also_after_its_owner_died(streams_url):
    async with World(streams_url) as world:
        receiver, agent, site = await world.held()
        ids = await world.send(*(message(agent) for _ in range(10)))
        await receiver.until(lambda it: it.under_way == 1)
        await until(lambda: world.raw.hlen(world.keys[0].direct) == 10)
        world.put(replace(agent, ordered=True))
        await until(lambda: in_mailbox(world, agent) == 9)
        ids += await world.send(*(message(agent) for _ in range(10)))
        await until(lambda: in_mailbox(world, agent) == 19)
        await site.kill()
        receiver.let_go()
        await world.site()
        await world.until_ended(ids)
        assert list(dict.fromkeys(receiver.ids)) == ids
        await world.until_clean()


@pytest.mark.usefixtures("never_told")
async def test_what_was_under_way_when_its_agent_came_to_want_order_does_not_pass_what_was_queued(
    streams_url, monkeypatch
):
    async with World(streams_url) as world:
        world.rules["deadlines"] = PATIENT
        receiver = await world.receiver()
        agent = world.agent(receiver, concurrency=1)

        class Changing(Mover):
            def move(self, placed, on_moved):
                super().move(placed, on_moved)
                if handed_over:
                    world.put(replace(agent, ordered=True))

        handed_over: list[bool] = []
        monkeypatch.setattr(router, "Mover", Changing)
        await world.ready_site()
        receiver.hold()
        ids = await world.send(*(message(agent) for _ in range(10)))
        await receiver.until(lambda it: it.under_way == 1)
        await until(lambda: world.raw.hlen(world.keys[0].direct) == 10)
        handed_over.append(True)
        ids += await world.send(*(message(agent) for _ in range(5)))
        await until(lambda: in_mailbox(world, agent) >= 9)
        receiver.let_go()
        await world.until_ended(ids)
        assert list(dict.fromkeys(receiver.ids)) == ids
        await world.until_clean()
