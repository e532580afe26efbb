"""What is posted from memory and lies in no mailbox: whatever comes, nothing is lost or ends twice."""

import asyncio

import pytest
from msgspec.structs import replace
from worker_rig import PATIENT, World, message, until

from broker.streams.keys import Keys
from broker.streams.link import Link
from broker.streams.mailbox import Mailboxes
from broker.telemetry import metrics
from schema.codec import decode_stored_envelope, encode
from schema.ledger import EventKind
from schema.limits import MAILBOX_QUEUED_MAX
from schema.message import Lane, Status
from workers.delivery import announcing

DELIVERED = [(Status.DELIVERED, None)]


@pytest.fixture
def told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """All that is under way is told at the next tick, and so put into its mailbox while it is posted."""
    monkeypatch.setattr(announcing, "ANNOUNCE_MS", 0)
    monkeypatch.setattr(announcing, "SLOW_MS", 0)


def handed(world: World) -> list[str]:
    """Return the ids of what lies there in no mailbox, in the order in which it came."""
    found = world.raw.hgetall(world.keys[0].direct)
    names = sorted(found, key=lambda name: int(name.rpartition(b".")[2]))
    return [decode_stored_envelope(found[name]).id for name in names]


def in_mailbox(world: World, agent_id: str, lane: Lane = Lane.NORMAL) -> list[str]:
    entries = world.raw.xrange(world.keys[0].mailbox(agent_id, lane))
    return [decode_stored_envelope(fields[b"m"]).id for _, fields in entries]


@pytest.mark.usefixtures("never_told")
async def test_what_is_under_way_lies_in_no_mailbox(any_streams_url):
    async with World(any_streams_url) as world:
        world.rules["deadlines"] = PATIENT
        receiver = await world.receiver()
        agent = world.agent(receiver, concurrency=2)
        await world.ready_site()
        receiver.hold()
        ids = await world.send(*(message(agent) for _ in range(10)))
        await receiver.until(lambda it: it.under_way == 2)
        await until(lambda: handed(world) == ids)
        assert not world.raw.exists(world.keys[0].mailbox(agent.id, Lane.NORMAL), world.keys[0].active)
        receiver.let_go()
        await world.until_ended(ids)
        assert receiver.times == dict.fromkeys(ids, 1)
        await world.until_clean()


@pytest.mark.usefixtures("never_told")
async def test_a_new_owner_has_all_of_it_in_its_order(any_streams_url):
    async with World(any_streams_url) as world:
        world.rules["deadlines"] = PATIENT
        receiver = await world.receiver()
        agent, puller = world.agent(receiver, concurrency=1), world.agent(receiver)
        first = await world.ready_site()
        receiver.hold()
        ids = await world.send(*(message(agent) for _ in range(20)))
        others = await world.send(*(message(puller) for _ in range(3)))
        await receiver.until(lambda it: it.under_way == 4)
        await until(lambda: len(handed(world)) == 23)
        await first.kill()
        # While nobody is there, one of them changes its mind and pulls.
        world.put(replace(puller, endpoint=None))
        receiver.let_go()
        before = len(receiver.got)
        await world.site()
        await world.until_ended(ids)
        again = [one.id for one in receiver.got[before:]]
        assert [one for one in again if one in ids] == ids
        assert set(again) <= set(ids)
        # What is left to pull is told to the record, and has not ended.
        await until(lambda: set(others) <= world.by_id().keys())
        assert world.ends() == dict.fromkeys(ids, DELIVERED) | {one: [] for one in others}
        assert in_mailbox(world, puller.id) == others
        assert handed(world) == []


@pytest.mark.usefixtures("never_told")
async def test_a_retry_waits_in_the_mailbox_and_every_attempt_is_told(any_streams_url):
    async with World(any_streams_url) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver)
        receiver.script = lambda got: 503 if got.attempt == 1 else 200
        await world.ready_site()
        before = metrics.SHELVED.child().value
        ids = await world.send(*(message(agent) for _ in range(5)))
        await world.until_ended(ids)
        assert metrics.SHELVED.child().value == before + len(ids)
        for message_id in ids:
            attempts = [event.attempt.number for event in world.by_id()[message_id] if event.attempt]
            assert attempts == [1, 2]
        await world.until_clean()


@pytest.mark.usefixtures("told_at_once")
async def test_answers_that_come_while_it_is_put_into_its_mailbox_end_it_once(any_streams_url):
    async with World(any_streams_url) as world:
        receiver = await world.receiver()
        agents = [world.agent(receiver, concurrency=8) for _ in range(5)]

        async def soon(got):
            # Around the tick of 20 ms at which what is under way is told.
            await asyncio.sleep(0.001 * (int(got.id[-2:], 16) % 40))
            return 503 if got.attempt == 1 and got.id[-3] in "0123" else 200

        receiver.script = soon
        await world.ready_site()
        ids: list[str] = []
        for _ in range(20):
            ids += await world.send(*(message(agent) for agent in agents for _ in range(4)))
        await world.until_ended(ids, timeout_s=60)
        assert world.ends() == dict.fromkeys(ids, DELIVERED)
        assert receiver.times == {one: 2 if one[-3] in "0123" else 1 for one in ids}
        places = [event.mailbox_entry for event in world.events() if event.kind is EventKind.ROUTED]
        assert places
        assert all(place is not None and "-" in place for place in places)
        await world.until_clean()


async def test_what_takes_long_is_told_with_its_place_and_can_be_taken_back_there(streams_url):
    async with World(streams_url) as world:
        receiver, agent, _ = await world.held()
        posted, waiting = await world.send(message(agent), message(agent))
        await until(lambda: {posted, waiting} <= world.by_id().keys())
        [event] = world.by_id()[waiting]
        assert in_mailbox(world, agent.id) == [posted, waiting]
        link = Link(streams_url, name="sender")
        assert await Mailboxes(link, shards=1).discard(agent.id, Lane.NORMAL, event.mailbox_entry)
        await link.close()
        # It was told of at the doorbell before the next one is.
        last = await world.send(message(agent))
        await until(lambda: last[0] in world.by_id())
        receiver.let_go()
        await world.until_ended([posted, *last])
        assert receiver.times == dict.fromkeys([posted, *last], 1)
        await world.until_clean()


async def test_to_a_slow_endpoint_goes_nothing_more_directly(streams_url):
    """It would be put into its mailbox all the same."""
    async with World(streams_url) as world:
        world.rules["deadlines"] = PATIENT
        receiver = await world.receiver()
        agent, quick = world.agent(receiver, concurrency=1), world.agent(await world.receiver())
        await world.ready_site()
        receiver.hold()
        first = await world.send(message(agent))
        await until(lambda: in_mailbox(world, agent.id) == first)
        ids = await world.send(*(message(agent) for _ in range(5)))
        await until(lambda: in_mailbox(world, agent.id) == first + ids)
        others = await world.send(*(message(quick) for _ in range(5)))
        await world.until_ended(others)
        receiver.let_go()
        await world.until_ended(first + ids)
        assert receiver.ids == first + ids


@pytest.mark.usefixtures("never_told")
async def test_what_is_queued_is_there_to_be_pulled_when_the_endpoint_is_taken_away(any_streams_url):
    async with World(any_streams_url) as world:
        receiver, agent, _ = await world.held()
        ids = await world.send(*(message(agent) for _ in range(10)))
        await until(lambda: handed(world) == ids)
        await receiver.until(lambda it: it.under_way == 1)
        world.put(replace(agent, endpoint=None))
        await until(lambda: in_mailbox(world, agent.id) == ids[1:])
        receiver.let_go()
        await world.until_ended(ids[:1])
        await until(lambda: not world.raw.exists(world.keys[0].active))
        assert handed(world) == []
        assert in_mailbox(world, agent.id) == ids[1:]


@pytest.mark.usefixtures("never_told")
async def test_behind_an_open_breaker_it_waits_in_its_mailbox(any_streams_url):
    async with World(any_streams_url, scale=0.2) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver, concurrency=2)
        receiver.script = lambda got: 500
        site = await world.ready_site()
        receiver.hold()
        ids = await world.send(*(message(agent) for _ in range(MAILBOX_QUEUED_MAX)))
        await until(lambda: len(handed(world)) == len(ids))
        receiver.let_go()
        await until(lambda: site.shards[0].delivery.room.breakers_open == 1)
        await until(lambda: handed(world) == [])
        assert set(in_mailbox(world, agent.id)) <= set(ids)
        receiver.script = None
        await world.until_ended(ids, timeout_s=60)
        assert world.ends() == dict.fromkeys(ids, DELIVERED)
        await world.until_clean()


@pytest.mark.usefixtures("never_told")
async def test_who_ends_in_good_order_leaves_nothing_there(any_streams_url):
    """An older worker, which looks into mailboxes only, may be the next."""
    async with World(any_streams_url) as world:
        receiver, agent, site = await world.held()
        ids = await world.send(*(message(agent) for _ in range(10)))
        await until(lambda: handed(world) == ids)
        await receiver.until(lambda it: it.under_way == 1)
        stopping = asyncio.ensure_future(site.stop())
        await until(lambda: site.shards[0].delivery.dispatch.stopping)
        receiver.let_go()
        await stopping
        assert handed(world) == []
        assert in_mailbox(world, agent.id) == ids[1:]
        await world.site()
        await world.until_ended(ids)
        assert receiver.times == dict.fromkeys(ids, 1)
        await world.until_clean()


async def test_what_no_message_is_is_set_aside_at_a_takeover(any_streams_url):
    async with World(any_streams_url) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver)
        good = message(agent)
        world.raw.hset(
            Keys(0).direct,
            mapping={"x.1": b"junk", "y.z": b'{"id":"1","message_type":"t"}', "x.2": encode(good)},
        )
        await world.site()
        await world.until_ended([good.id])
        await until(lambda: handed(world) == [])
        kept = {event.id: event for event in world.events() if event.kind is EventKind.QUARANTINED}
        assert len(kept) == 2
        await world.until_clean()


@pytest.mark.usefixtures("told_at_once")
async def test_what_was_told_while_it_was_queued_is_pushed_when_its_endpoint_is_given_back(any_streams_url):
    """What memory has forgotten is not passed over when it is read again."""
    async with World(any_streams_url) as world:
        receiver, agent, _ = await world.held()
        ids = await world.send(*(message(agent) for _ in range(10)))
        await receiver.until(lambda it: it.under_way == 1)
        await until(lambda: in_mailbox(world, agent.id) == ids)
        world.put(replace(agent, endpoint=None))
        world.put(agent)
        receiver.let_go()
        await world.until_ended(ids)
        assert world.ends() == dict.fromkeys(ids, DELIVERED)
        assert receiver.times.keys() == set(ids)
        await world.until_clean()


async def test_workers_that_come_and_go_under_load_lose_nothing(any_streams_url):
    async with World(any_streams_url) as world:
        receiver = await world.receiver()
        agents = [world.agent(receiver) for _ in range(20)]
        ids: list[str] = []
        site = await world.ready_site()
        for turn in range(6):
            sending = [
                asyncio.ensure_future(world.send(*(message(agent) for agent in agents for _ in range(3))))
                for _ in range(5)
            ]
            # One in good order, the next not.
            await (site.stop() if turn % 2 else site.kill())
            site = await world.site()
            for one in await asyncio.gather(*sending):
                ids += one
        await world.until_ended(ids, timeout_s=60)
        assert {status for ends in world.ends().values() for status, _ in ends} == {Status.DELIVERED}
        assert set(receiver.ids) == set(ids)
        await world.until_clean()
