"""Several shards: forwarding by name and by choice, repeated after a crash, never to two agents."""

import asyncio

import msgspec
import pytest
from worker_rig import World, message, until

from broker.streams.connection import Connection
from broker.streams.lanes import parted
from broker.streams.scripts import ROUTE
from schema.codec import decode_stored_envelope, encode
from schema.errors import StoreUnavailable, StreamsUnavailable
from schema.ids import new_id, shard_of
from schema.ledger import EventKind
from schema.message import Envelope, Lane, Status
from workers import router

SHARDS = 3


def in_shard(shard: int) -> str:
    message_id = new_id()
    while shard_of(message_id, SHARDS) != shard:
        message_id = new_id()
    return message_id


def name_in_shard(shard: int) -> str:
    return next(f"name-{n}" for n in range(1000) if shard_of(f"name-{n}", SHARDS) == shard)


async def test_a_recipient_named_by_its_name_gets_it_wherever_it_lives(any_streams_url):
    async with World(any_streams_url, shards=SHARDS) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver, shard=1, name=name_in_shard(2))
        await world.site()
        [sent] = await world.send(message(agent.name), waiter="gw")
        await world.until_ended([sent])
        assert receiver.ids == [sent]
        assert receiver.got[0].message["to_agent_id"] == agent.id
        assert {one.waiter for one in world.by_id()[sent]} == {"gw"}
        await world.until_clean()


async def test_a_choice_in_another_shard_is_forwarded_there(any_streams_url):
    async with World(any_streams_url, shards=SHARDS) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver, shard=1, capabilities=("sums",))
        await world.site()
        ids = await world.send(
            *(message(id=in_shard(shard), requirements=["sums"]) for shard in range(SHARDS))
        )
        await world.until_ended(ids)
        assert receiver.times == dict.fromkeys(ids, 1)
        assert {one.to for events in world.by_id().values() for one in events} == {agent.id}
        await world.until_clean()


async def test_why_an_agent_in_another_shard_was_chosen_is_on_record_and_not_in_the_push(streams_url):
    async with World(streams_url, shards=SHARDS) as world:
        receiver = await world.receiver()
        world.agent(receiver, shard=1, capabilities=("sums",))
        await world.site()
        sent = await world.send(
            *(message(id=in_shard(shard), requirements=["sums"]) for shard in range(SHARDS)),
        )
        await world.until_ended(sent)
        for message_id, events in world.by_id().items():
            assert {b"rule" in bytes(one.route) for one in events if one.route is not msgspec.UNSET} == {True}
            assert message_id in sent
        assert all("route" not in one.message for one in receiver.got)


async def test_requirements_in_the_content_count_too(streams_url):
    async with World(streams_url) as world:
        receiver = await world.receiver()
        world.agent(receiver, capabilities=("sums", "maps"))
        await world.site()
        [sent] = await world.send(message(content=b'{"requirements":["maps","sums"]}'))
        await world.until_ended([sent])
        assert receiver.ids == [sent]


async def test_a_message_published_twice_never_reaches_two_agents(any_streams_url):
    """Each copy might be chosen another agent, in another shard, which has not seen the first."""
    async with World(any_streams_url, shards=SHARDS) as world:
        receiver = await world.receiver()
        for shard in range(SHARDS):
            for _ in range(5):
                world.agent(receiver, shard=shard, capabilities=("sums",))
        await world.site()
        sent = [message(requirements=["sums"]) for _ in range(200)]
        for _ in range(3):
            await world.send(*sent)
        await world.send(*(one for one in sent for _ in range(2)))
        await world.until_ended([one.id for one in sent])
        await world.until_clean()
        assert receiver.times == {one.id: 1 for one in sent}


@pytest.mark.parametrize("copies", [1, 2])
async def test_a_crash_between_forward_and_delete_repeats_the_same_choice(
    any_streams_url, monkeypatch, copies
):
    """Two other shards: a second choice might lie in the one that has not seen the first."""
    async with World(any_streams_url, shards=SHARDS) as world:
        receiver = await world.receiver()
        agents = [
            world.agent(receiver, shard=shard, capabilities=("sums",)) for shard in (1, 2) for _ in range(10)
        ]
        dying = await world.site("route", shards=[0])
        run = Connection.run

        def crash(self, script, keys, arguments, on_reply):
            if script is ROUTE and "{0}" in str(keys[0]):
                self._loop.call_soon(on_reply, StreamsUnavailable("a crash, just here"))
            else:
                run(self, script, keys, arguments, on_reply)

        monkeypatch.setattr(Connection, "run", crash)
        sent = [message(requirements=["sums"]) for _ in range(200)]
        sent = [one for one in sent if shard_of(one.id, SHARDS) == 0]
        for _ in range(copies):
            await world.send(*sent)
        ingresses = [world.keys[shard].ingress[Lane.NORMAL] for shard in (1, 2)]
        await until(lambda: all(world.raw.xlen(ingress) > 0 for ingress in ingresses))
        await dying.kill()
        forwarded = {
            envelope.id: envelope.to_agent_id
            for ingress in ingresses
            for _, fields in world.raw.xrange(ingress)
            for envelope in map(decode_stored_envelope, parted(fields[b"m"]))
        }
        assert forwarded
        monkeypatch.setattr(Connection, "run", run)
        await world.site()
        await world.until_ended([one.id for one in sent])
        await world.until_clean()
        assert receiver.times == {one.id: 1 for one in sent}
        got = {one.id: one.message["to_agent_id"] for one in receiver.got}
        assert {one: got[one] for one in forwarded} == forwarded
        assert set(got.values()) <= {agent.id for agent in agents}


@pytest.mark.parametrize("is_gone", [True, False], ids=["gone", "here"])
async def test_a_choice_that_was_written_down_is_forgotten_wherever_its_message_goes(
    any_streams_url, is_gone
):
    async with World(any_streams_url, shards=SHARDS) as world:
        receiver = await world.receiver()
        agents = [world.agent(receiver, shard=shard, capabilities=("sums",)) for shard in (0, 1)]
        here = [one for one in (message(requirements=["sums"]) for _ in range(60)) if in_first(one)]
        # None of them was forwarded: of an agent that has been deleted, and of one that has moved here.
        before = new_id() if is_gone else agents[0].id
        world.raw.hset(world.keys[0].chosen, mapping={one.id: before for one in here})
        await world.site()
        await world.send(*here)
        await world.until_ended([one.id for one in here])
        await world.until_clean()
        assert receiver.times == {one.id: 1 for one in here}


async def test_it_is_forgotten_also_where_the_sender_had_to_be_looked_up_first(streams_url):
    async with World(streams_url, shards=SHARDS) as world:
        receiver = await world.receiver()
        world.agent(receiver, shard=0, capabilities=("sums",))
        sent = next(
            one
            for one in (message(requirements=["sums"], from_agent_id="late") for _ in range(99))
            if in_first(one)
        )
        world.raw.hset(world.keys[0].chosen, sent.id, new_id())
        late = []

        async def learn() -> None:
            if not late:
                late.append(world.agent(receiver, name="late"))

        world.live.refreshing = learn
        await world.site()
        await world.send(sent)
        await world.until_ended([sent.id])
        await world.until_clean()
        assert receiver.times == {sent.id: 1}


def in_first(envelope: Envelope) -> bool:
    return shard_of(envelope.id, SHARDS) == 0


# --- unknown recipients -------------------------------------------------------------------------------


async def test_a_recipient_is_unknown_only_after_a_refresh(streams_url):
    async with World(streams_url) as world:
        receiver = await world.receiver()
        await world.site()
        late = []

        async def learn() -> None:
            if not late:
                late.append(world.agent(receiver, name="late"))

        world.live.refreshing = learn
        [sent] = await world.send(message("late"))
        await world.until_ended([sent])
        assert receiver.ids == [sent]
        [unknown] = await world.send(message("never"))
        await world.until_ended([unknown])
        assert world.ends()[unknown] == [(Status.FAILED, "unknown_recipient")]
        assert world.live.refreshes == 2


async def test_while_postgres_is_away_what_cannot_be_judged_waits_and_the_rest_goes_on(any_streams_url):
    async with World(any_streams_url) as world:
        receiver = await world.receiver()
        known = world.agent(receiver)
        site = await world.site()

        async def away() -> None:
            raise StoreUnavailable("away")

        world.live.refreshing = away
        ids: list[str] = []
        waiting = [message("late") for _ in range(20)] + [message("never")]
        for one in waiting:
            await world.send(one)
            ids += await world.send(message(known))
        await world.until_ended(ids)
        assert not any(world.ends().get(one.id) for one in waiting)
        world.agent(receiver, name="late")
        world.live.refreshing = None
        await world.until_ended([one.id for one in waiting])
        assert world.ends()[waiting[-1].id] == [(Status.FAILED, "unknown_recipient")]
        assert receiver.times == dict.fromkeys([*ids, *(one.id for one in waiting[:-1])], 1)
        assert site.failures == []
        await world.until_clean()


async def test_a_postgres_that_says_nothing_holds_up_unknown_names_only(any_streams_url, monkeypatch):
    """Taken connections, no answer: nothing fails, and known names must not wait for it to fail."""
    monkeypatch.setattr(router, "JUDGE_S", 0.05)
    monkeypatch.setattr(router, "SET_ASIDE_S", 0.05)
    async with World(any_streams_url) as world:
        receiver = await world.receiver()
        known = world.agent(receiver)
        site = await world.site()
        answered = asyncio.Event()
        world.live.refreshing = answered.wait
        ids: list[str] = []
        waiting = [message("late") for _ in range(20)] + [message("never")]
        for one in waiting:
            await world.send(one)
            ids += await world.send(message(known))
        await world.until_ended(ids)
        assert world.live.refreshes == 1  # One question is under way, and no second one is asked meanwhile.
        assert not any(world.ends().get(one.id) for one in waiting)
        world.agent(receiver, name="late")
        answered.set()
        await world.until_ended([one.id for one in waiting])
        assert world.ends()[waiting[-1].id] == [(Status.FAILED, "unknown_recipient")]
        assert receiver.times == dict.fromkeys([*ids, *(one.id for one in waiting[:-1])], 1)
        assert site.failures == []
        await world.until_clean()


async def test_what_waited_for_postgres_is_taken_up_by_the_next_owner(streams_url):
    async with World(streams_url) as world:
        receiver = await world.receiver()

        async def away() -> None:
            raise StoreUnavailable("away")

        world.live.refreshing = away
        first = await world.site()
        [sent] = await world.send(message("late"))
        await until(lambda: world.live.refreshes > 0)
        await first.kill()
        world.agent(receiver, name="late")
        await world.site()
        await world.until_ended([sent])
        assert receiver.ids == [sent]


# --- parking ------------------------------------------------------------------------------------------


async def test_what_nobody_can_do_is_parked_and_goes_to_the_first_who_can(any_streams_url):
    async with World(any_streams_url, shards=2) as world:
        receiver = await world.receiver()
        await world.site()
        ids = await world.send(
            *(message(requirements=["sums"], priority=1 + n % 10) for n in range(200)), waiter="gw"
        )
        await until(lambda: len(world.by_id()) == len(ids))
        assert {(one.kind, one.status, one.to) for one in world.events()} == {
            (EventKind.ROUTED, Status.PENDING, None)
        }
        world.agent(receiver, shard=1, capabilities=("sums",))
        await world.until_ended(ids)
        assert receiver.times == dict.fromkeys(ids, 1)
        await world.until_clean()


async def test_what_the_allow_list_keeps_out_is_parked_again_not_moved_round_and_round(streams_url):
    async with World(streams_url) as world:
        receiver = await world.receiver()
        await world.site()
        asker = world.agent()
        ids = await world.send(*(message(requirements=["sums"], from_agent_id=asker.id) for _ in range(5)))
        await until(lambda: len(world.events()) == 5)
        agent = world.agent(receiver, capabilities=("sums",), allow_from=(new_id(),))
        await until(lambda: len(world.events()) >= 10)
        await until(lambda: sum(count for key, count in world.left().items() if ":parked:" in key) == 5)
        before = len(world.events())
        world.put(msgspec.structs.replace(agent, allow_from=(asker.id,)))
        await world.until_ended(ids)
        assert before <= 15
        assert receiver.times == dict.fromkeys(ids, 1)
        await world.until_clean()


async def test_a_message_for_nobody_in_particular_is_never_its_senders(streams_url):
    async with World(streams_url) as world:
        receiver = await world.receiver()
        asker = world.agent(receiver, capabilities=("sums",))
        await world.site()
        await world.send(message(requirements=["sums"], from_agent_id=asker.id))
        await until(lambda: world.left())
        other = world.agent(receiver, capabilities=("sums",))
        await receiver.until(lambda it: it.got)
        assert receiver.got[0].message["to_agent_id"] == other.id


async def test_published_again_by_hand_with_the_passed_mark_is_routed_again(streams_url):
    """The mark is the router's own; it exempts from deduplication, and only that."""
    async with World(streams_url) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver)
        await world.site()
        sent = message(agent)
        await world.send(sent, sent)
        world.raw.xadd(world.keys[0].ingress[Lane.LOW], {"m": encode(sent), "p": "1"})
        await receiver.until(lambda it: len(it.got) == 2)
        await world.until_clean()
        assert receiver.times == {sent.id: 2}
