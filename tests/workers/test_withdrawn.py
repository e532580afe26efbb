"""What a sender has taken back while it moves from one place to another is not delivered."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from cluster import keys_of
from worker_rig import World, message, until

from broker.core.parking import Signature
from broker.streams import mailbox
from broker.streams.link import Link
from broker.streams.mailbox import Mailboxes
from schema.codec import encode
from schema.message import Lane, Tried


async def test_what_was_taken_back_on_its_way_to_a_mailbox_is_dropped(any_streams_url):
    async with World(any_streams_url) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver, capabilities=("sums",))
        woken, unparked = message(agent), message(requirements=["sums"])
        kept = message(agent)
        for one in (woken, unparked, kept):  # as they lie in the ingress once they were woken, or unparked
            world.raw.xadd(world.keys[0].ingress[Lane.NORMAL], {"m": encode(one), "p": "1"})
        link = Link(any_streams_url, name="gateway")
        mailboxes = Mailboxes(link, shards=1)
        for one in (woken, unparked):
            assert not await mailboxes.withdraw(one.id)
        await link.close()
        assert world.raw.pttl(world.keys[0].withdrawn) > 0
        await world.site()
        await world.until_ended([kept.id])
        await until(lambda: world.raw.xlen(world.keys[0].ingress[Lane.NORMAL]) == 0)
        await world.until_clean()
        assert receiver.ids == [kept.id]
        assert world.by_id().keys() == {kept.id}


@pytest.mark.parametrize("lane", Lane)
async def test_what_waits_outside_mailboxes_is_taken_back_whatever_lane_it_came_through(streams_url, lane):
    """A sender beyond its share publishes through the lowest lane, whatever the priority of the message."""
    async with World(streams_url) as world:
        agent = world.agent()
        later = message(agent, deliver_at=datetime.now(UTC) + timedelta(days=1))
        parked = message(requirements=["sums"])
        for one in (later, parked):
            world.raw.xadd(world.keys[0].ingress[lane], {"m": encode(one)})
        await world.site()
        await until(lambda: {later.id, parked.id} <= world.by_id().keys())
        [entry] = [one.mailbox_entry for one in world.by_id()[parked.id]]
        link = Link(streams_url, name="gateway")
        mailboxes = Mailboxes(link, shards=1)
        needs = Signature(("sums",), parked.message_type, Lane.HIGH)
        assert await mailboxes.withdraw(later.id)
        assert await mailboxes.withdraw(parked.id, needs=needs, entry=entry)
        await link.close()
        assert world.raw.zcard(world.keys[0].later) == world.raw.hlen(world.keys[0].later_messages) == 0
        assert not any(world.raw.xlen(key) for key in keys_of(world.raw, "ab:{0}:parked:*"))


async def test_what_was_taken_back_on_its_way_to_another_agents_shard_is_dropped(any_streams_url):
    async with World(any_streams_url, shards=2) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver, capabilities=("sums",), shard=1)
        before = Tried(agent_id=world.agent().id, reason="declined", attempts=1, at_ms=1)
        # As the shard that has chosen again forwards them.
        taken_back, kept = (message(agent, requirements=["sums"], tried=[before]) for _ in range(2))
        for one in (taken_back, kept):
            world.raw.xadd(world.keys[1].ingress[Lane.NORMAL], {"m": encode(one)})
        link = Link(any_streams_url, name="gateway")
        assert not await Mailboxes(link, shards=2).withdraw(taken_back.id)
        await link.close()
        await world.site()
        await world.until_ended([kept.id])
        assert receiver.ids == [kept.id]


@pytest.mark.parametrize("way", ["scheduled", "parked"])
async def test_what_was_taken_back_after_it_was_forwarded_to_its_agents_shard_is_dropped(
    any_streams_url, way
):
    """Its shard cannot tell from the message that it was scheduled, or parked, where it came from."""
    async with World(any_streams_url, shards=2) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver, capabilities=("sums",), shard=1)
        more = {"requirements": ["sums"]} if way == "parked" else {"to": agent}
        gone, kept = (message(**more) for _ in range(2))
        for one in (gone, kept):
            world.raw.xadd(world.keys[0].ingress[Lane.NORMAL], {"m": encode(one), "p": "1"})
        await world.site("route", shards=[0])
        await until(lambda: world.raw.xlen(world.keys[0].ingress[Lane.NORMAL]) == 0)
        assert world.raw.xlen(world.keys[1].ingress[Lane.NORMAL])
        link = Link(any_streams_url, name="gateway")
        assert not await Mailboxes(link, shards=2).withdraw(gone.id)
        await link.close()
        await world.site(shards=[1])
        await world.until_ended([kept.id])
        await world.until_clean()
        assert receiver.ids == [kept.id]


async def test_a_round_that_was_taken_back_is_dropped_and_a_later_one_is_not(streams_url):
    async with World(streams_url) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver)
        gone, kept = (message(agent, round=number) for number in (1, 2))
        link = Link(streams_url, name="gateway")
        for one in (gone, kept):
            await Mailboxes(link, shards=1).withdraw(one.id, message_round=1)
        await link.close()
        await world.send(gone, kept)
        await world.site()
        await world.until_ended([kept.id])
        await world.until_clean()
        assert receiver.ids == [kept.id]


async def test_what_was_taken_back_long_ago_is_forgotten_while_more_is_taken_back(streams_url, monkeypatch):
    monkeypatch.setattr(mailbox, "WITHDRAWN_MS", 200)
    async with World(streams_url) as world:
        link = Link(streams_url, name="gateway")
        mailboxes = Mailboxes(link, shards=1)
        for _ in range(20):
            await mailboxes.withdraw(message().id)
            await asyncio.sleep(0.05)
        await link.close()
        # Twenty within a second: those of the last 200 ms or so, on however slow a machine.
        assert len(set(world.raw.zrange(world.keys[0].withdrawn, 0, -1))) < 15
