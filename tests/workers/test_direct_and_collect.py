"""From the ingress to the endpoint: posted from memory, read back, nothing lost, nothing twice."""

import asyncio

import msgspec
import pytest
from worker_rig import PATIENT, World, message, until

from schema.codec import decode_stored_envelope
from schema.ledger import EventKind
from schema.limits import MAILBOX_QUEUED_MAX
from schema.message import LANES, Lane, Status

DELIVERED = [(Status.DELIVERED, None)]


async def test_a_message_is_posted_once_settled_once_and_leaves_nothing_behind(any_streams_url):
    async with World(any_streams_url) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver)
        await world.site()
        [sent] = await world.send(message(agent))
        await world.until_ended([sent])
        assert receiver.times == {sent: 1}
        assert receiver.got[0].headers["webhook-id"] == sent
        [*before, event] = world.by_id()[sent]
        assert event.attempt is not None
        assert len(before) <= 1  # it is announced only where the machine is slow
        assert (event.kind, event.status, event.attempt.number, event.to) == (
            EventKind.SETTLED, Status.DELIVERED, 1, agent.id,
        )  # fmt: skip
        assert bytes([*before, event][0].message) == receiver.got[0].body
        await world.until_clean()


async def test_a_burst_larger_than_memory_is_collected_in_order(any_streams_url):
    """Falls behind, is read back, comes in the order of its lane; no gap, no repetition."""
    async with World(any_streams_url) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver, concurrency=1)
        await world.site()
        count = 6 * MAILBOX_QUEUED_MAX
        sent = {lane: [message(agent, lane=lane) for _ in range(count)] for lane in LANES}
        ids = await world.send(*(one for several in zip(*sent.values(), strict=True) for one in several))
        await world.until_ended(ids, timeout_s=60)
        assert set(receiver.times.values()) == {1}
        assert set(receiver.ids) == set(ids)
        for lane in LANES:
            own = {one.id for one in sent[lane]}
            assert [one for one in receiver.ids if one in own] == [one.id for one in sent[lane]]
        assert all(ends == DELIVERED for ends in world.ends().values())
        await world.until_clean()


async def test_many_slow_endpoints_and_a_trickle_to_each_lose_nothing(any_streams_url):
    async with World(any_streams_url) as world:
        world.rules["deadlines"] = PATIENT
        receiver = await world.receiver()
        agents = [world.agent(receiver) for _ in range(40)]
        await world.site()

        async def slowly(got):
            await asyncio.sleep(0.002)
            return 200

        receiver.script = slowly
        ids: list[str] = []
        for round_ in range(20):
            ids += await world.send(
                *(message(agent, lane=LANES[round_ % 3]) for agent in agents for _ in range(3))
            )
        await world.until_ended(ids, timeout_s=60)
        assert receiver.times == dict.fromkeys(ids, 1)
        await world.until_clean()


async def test_the_first_event_of_every_message_carries_it_whole(any_streams_url):
    async with World(any_streams_url) as world:
        receiver = await world.receiver()
        puller, agent = world.agent(), world.agent(receiver, concurrency=2)
        receiver.script = lambda got: 500 if got.attempt == 1 else 200
        await world.site()
        ids = await world.send(*(message(to) for _ in range(100) for to in (agent, puller)))
        await world.until_ended(ids[::2])
        events = world.by_id()
        assert set(events) == set(ids)
        for message_id, several in events.items():
            assert decode_stored_envelope(several[0].message).id == message_id


async def test_what_goes_to_a_puller_waits_in_its_mailbox_and_is_told(any_streams_url):
    async with World(any_streams_url) as world:
        puller = world.agent()
        await world.site()
        ids = await world.send(*(message(puller) for _ in range(5)))
        await until(lambda: len(world.events()) == 5)
        stored = world.raw.xrange(world.keys[0].mailbox(puller.id, Lane.NORMAL))
        assert [decode_stored_envelope(fields[b"m"]).id for _, fields in stored] == ids
        assert [event.mailbox_entry for event in world.events()] == [entry.decode() for entry, _ in stored]
        assert not world.raw.exists(world.keys[0].active)


async def test_an_agent_with_a_new_endpoint_gets_what_waited(any_streams_url):
    async with World(any_streams_url) as world:
        receiver = await world.receiver()
        agent = world.agent()
        await world.site()
        ids = await world.send(*(message(agent, lane=lane) for lane in LANES for _ in range(30)))
        await until(lambda: len(world.events()) == len(ids))
        world.put(msgspec.structs.replace(agent, endpoint=receiver.url()))
        await world.until_ended(ids)
        assert receiver.times == dict.fromkeys(ids, 1)
        await world.until_clean()


async def test_what_is_queued_stays_when_an_endpoint_is_taken_away_and_goes_when_it_is_given_back(
    any_streams_url,
):
    async with World(any_streams_url) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver)
        await world.site()
        receiver.hold()
        ids = await world.send(*(message(agent) for _ in range(100)))
        await receiver.until(lambda it: it.under_way == 4)
        world.put(msgspec.structs.replace(agent, endpoint=None))
        receiver.let_go()
        await until(lambda: sum(map(bool, world.ends().values())) == 4)
        await asyncio.sleep(0.1)  # anything wrongly posted would be seen by now
        assert len(receiver.got) == 4
        assert world.raw.xlen(world.keys[0].mailbox(agent.id, Lane.NORMAL)) == 96
        world.put(agent)
        await world.until_ended(ids)
        assert receiver.times == dict.fromkeys(ids, 1)
        await world.until_clean()


async def test_every_message_of_an_endpoint_taken_away_is_on_record(any_streams_url):
    """Posted from memory means not told to the record yet; without an endpoint nobody else tells it."""
    async with World(any_streams_url) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver)
        await world.site()
        receiver.hold()
        ids = []
        for number in range(30):
            ids += await world.send(message(agent))
            if number == 15:
                world.put(msgspec.structs.replace(agent, endpoint=None))
        receiver.let_go()
        await until(lambda: set(ids) <= set(world.by_id()))


@pytest.mark.parametrize("lane", LANES)
async def test_a_low_message_is_not_starved_by_a_stream_of_high_ones(any_streams_url, lane):
    async with World(any_streams_url) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver, concurrency=1)
        await world.site()
        receiver.hold()
        high = await world.send(*(message(agent, lane=Lane.HIGH) for _ in range(300)))
        await receiver.until(lambda it: it.under_way == 1)
        keys = world.keys[0]
        inbox = [keys.mailbox(agent.id, one) for one in LANES]
        [other] = await world.send(message(agent, lane=lane))
        # Or the first of its lane might come when all the others have gone.
        await until(lambda: world.raw.hlen(keys.direct) + sum(map(world.raw.xlen, inbox)) == 301)
        receiver.let_go()
        await world.until_ended([*high, other], timeout_s=30)
        if lane is not Lane.HIGH:
            assert receiver.ids.index(other) < 200


async def test_an_ordered_agent_has_one_request_in_flight(any_streams_url):
    async with World(any_streams_url) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver, ordered=True)
        await world.site()
        ids = await world.send(*(message(agent) for _ in range(200)))
        await world.until_ended(ids, timeout_s=30)
        assert receiver.under_way_most == 1
        assert receiver.ids == ids


async def test_a_failure_holds_the_rest_of_an_ordered_agent(any_streams_url):
    async with World(any_streams_url) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver, ordered=True)
        receiver.script = lambda got: 200 if got.attempt == 3 or int(got.message["content"]["n"]) % 7 else 500
        await world.site()
        ids = await world.send(*(message(agent, content=b'{"n":%d}' % n) for n in range(20)))
        await world.until_ended(ids, timeout_s=30)
        assert list(dict.fromkeys(receiver.ids)) == ids
        assert receiver.ids == [one for n, one in enumerate(ids) for _ in range(1 if n % 7 else 3)]


async def test_one_endpoint_gets_no_more_at_a_time_than_it_may(any_streams_url):
    async with World(any_streams_url) as world:
        receiver, other = await world.receiver(), await world.receiver()
        slow, fast = world.agent(receiver, concurrency=3), world.agent(other)
        await world.site()
        receiver.hold()
        await world.send(*(message(slow) for _ in range(50)))
        await receiver.until(lambda it: it.under_way == 3)
        ids = await world.send(*(message(fast) for _ in range(50)))
        await world.until_ended(ids)
        assert receiver.under_way_most == 3


async def test_a_quota_is_shared_and_nobody_is_forgotten(any_streams_url):
    """More endpoints with work than the shard may have requests in flight: everyone gets its turn."""
    async with World(any_streams_url) as world:
        world.rules = {"quota": 4}
        receiver = await world.receiver()
        agents = [world.agent(receiver) for _ in range(30)]
        await world.site()
        ids = await world.send(*(message(agent) for agent in agents for _ in range(30)))
        await world.until_ended(ids, timeout_s=60)
        assert receiver.under_way_most <= 4
        assert receiver.times == dict.fromkeys(ids, 1)
        await world.until_clean()
