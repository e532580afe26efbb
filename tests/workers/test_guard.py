"""What routers end instead of passing it on: full inboxes, loops, what operators have switched off."""

import asyncio
import time
from collections.abc import AsyncIterator

import msgspec
import pytest
from cluster import keys_of
from worker_rig import World, message, until

from broker.core.admission import UNSEEN_MESSAGES, Quota
from broker.core.barriers import Switches
from broker.core.loops import LoopRules, Sign
from broker.streams.barriers import BarrierBook
from broker.streams.clock import ServerClock
from broker.streams.ingress import Publisher
from broker.streams.keys import BARRIERS
from broker.streams.link import Link
from schema.agent import Agent
from schema.errors import StreamsUnavailable
from schema.ids import new_id
from schema.message import Lane, Status
from schema.trip import LOOP_TYPE
from workers import guard as guarding
from workers.guard import FULL_LOOKS_MAX, Guard, GuardRules

FULL = (Status.FAILED, "inbox_full")
LOOP = (Status.FAILED, "loop")
KILLED = (Status.FAILED, "killed")


@pytest.fixture
async def world(streams_url: str) -> AsyncIterator[World]:
    async with World(streams_url) as world:
        yield world


@pytest.fixture
async def book(streams_url: str) -> AsyncIterator[BarrierBook]:
    link = Link(streams_url, name="test-book")
    yield BarrierBook(link)
    await link.close()


def ended(world: World, how: tuple[Status, str]) -> list[str]:
    return [one for one, ends in world.ends().items() if how in ends]


def depth(world: World, agent: Agent) -> int:
    return sum(count for key, count in world.left().items() if f":inbox:{agent.id}:" in key)


async def settled(world: World) -> None:
    await until(lambda: not any(count for key, count in world.left().items() if ":ingress:" in key))


# --- quotas -----------------------------------------------------------------------------------------------


async def test_a_full_inbox_takes_no_more_and_nothing_in_it_is_lost(world: World, book: BarrierBook) -> None:
    world.guard_rules = GuardRules(shards=1, quota=Quota(messages=100))
    agent = world.agent()
    await world.site()
    first = await world.send(*(message(agent) for _ in range(90)))
    await settled(world)
    for _ in range(20):
        await world.send(*(message(agent) for _ in range(20)))
        await settled(world)
    await until(lambda: len(ended(world, FULL)) > 0)
    # 100, what was accepted on top (an eighth, at least 16), and what was routed while the guard looked.
    assert 100 <= depth(world, agent) <= 116 + 2 * UNSEEN_MESSAGES
    assert depth(world, agent) + len(ended(world, FULL)) == 490
    assert not set(first) & set(ended(world, FULL))
    await until_found(book, agent)


async def test_an_inbox_that_was_emptied_takes_messages_again(world: World, book: BarrierBook) -> None:
    world.guard_rules = GuardRules(shards=1, quota=Quota(messages=10))
    agent = world.agent()
    await world.site()
    await fill(world, book, agent)
    world.raw.delete(*keys_of(world.raw, f"ab:*:inbox:{agent.id}:*"))
    await until_found(book, agent, there=False)
    ids = await world.send(message(agent))
    await until(lambda: depth(world, agent) == 1)
    assert not set(ids) & set(ended(world, FULL))


async def test_an_inbox_that_redis_did_not_let_it_look_into_is_looked_into_again(streams_url: str) -> None:
    link = Link("redis://127.0.0.1:1/0", name="guard")  # Redis away at that moment
    agent = Agent(id=new_id(), name="full")
    rules = GuardRules(shards=1, quota=Quota(messages=1))
    publisher = Publisher(streams_url, shards=1)
    guard = Guard(link, publisher, ServerClock(), rules, find_agent=lambda _: agent)
    for _ in range(2):
        assert guard.judge(message(agent), agent, 100, 1, is_new=True) is None
    with pytest.raises(StreamsUnavailable):
        await guard._look()
    assert guard.judge(message(agent), agent, 100, 1, is_new=True) is None
    assert guard._due == {agent.id}
    await publisher.close()
    await link.close()


async def test_full_inboxes_stay_closed_at_the_doors_when_as_many_are_listed_as_may_be(
    world: World, book: BarrierBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarding, "FULL_INBOXES_MAX", 1)
    monkeypatch.setattr(guarding, "FULL_RENEWED_MS", 200)
    world.guard_rules = GuardRules(shards=1, quota=Quota(messages=10))
    agent = world.agent()
    await world.site()
    await fill(world, book, agent)
    first_ms = (await book.read()).full[agent.id]
    async with asyncio.timeout(10):
        while (await book.read()).full[agent.id] == first_ms:  # noqa: ASYNC110  # nothing to wait on
            await asyncio.sleep(0.02)


async def test_of_many_full_inboxes_few_are_looked_into_at_a_time_and_all_stay_closed_until_they_are(
    world: World, book: BarrierBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarding, "FULL_RENEWED_MS", 0)
    agents = {(agent := world.agent()).id: agent for _ in range(1_000)}
    with world.raw.pipeline(transaction=False) as pipeline:
        for agent_id in agents:
            pipeline.xadd(world.keys[0].mailbox(agent_id, Lane.NORMAL), {"m": "x"})
        pipeline.execute()
    link = Link(world.url, name="guard")
    rules = GuardRules(shards=1, quota=Quota(messages=1))
    guard = Guard(link, world.publisher, ServerClock(), rules, find_agent=agents.get)
    guard._due.update(agents)
    await guard._look()
    before = (await book.read()).full
    assert set(before) == set(agents)
    guard._inboxes.clear()
    await asyncio.sleep(0.002)  # what is told again is told a millisecond later at least
    await guard._poll()
    await guard._look()
    assert len(guard._inboxes) == FULL_LOOKS_MAX
    after = (await book.read()).full
    assert all(after[agent_id] > before[agent_id] for agent_id in agents)
    # Each has its turn: all that were emptied meanwhile are open again after so many polls.
    world.raw.delete(*keys_of(world.raw, "ab:*:inbox:*"))
    for _ in range(-(-len(agents) // FULL_LOOKS_MAX)):
        await guard._poll()
        await guard._look()
    assert not (await book.read()).full
    await link.close()


async def test_a_bug_met_once_leaves_the_routers_guarded(
    world: World, book: BarrierBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.guard_rules = GuardRules(shards=1, quota=Quota(messages=10))
    met = asyncio.Event()

    async def fail(_: BarrierBook) -> None:
        met.set()
        raise ZeroDivisionError

    agent = world.agent()
    with monkeypatch.context() as broken:
        broken.setattr(BarrierBook, "read_changed", fail)
        await world.site()
        await asyncio.wait_for(met.wait(), 10)
    await fill(world, book, agent)


async def test_a_trip_nobody_can_read_stops_no_router(world: World, book: BarrierBook) -> None:
    world.guard_rules = GuardRules(shards=1, quota=Quota(messages=10))
    world.raw.hset(BARRIERS, mapping={"trip|x": "of another release", "full|y": "soon", "v": 1})
    agent = world.agent()
    site = await world.site()
    await fill(world, book, agent)
    assert not any(task.done() for task in site._tasks)


async def test_bytes_fill_an_inbox_too(world: World, book: BarrierBook) -> None:
    world.guard_rules = GuardRules(shards=1, quota=Quota(bytes=200_000))
    agent = world.agent()
    await world.site()
    body = b'{"a":"' + b"x" * 10_000 + b'"}'
    for _ in range(5):
        await world.send(*(message(agent, content=body) for _ in range(8)))
        await settled(world)
    await until_found(book, agent)


async def test_an_agents_own_quota_counts_and_follows_its_record(world: World, book: BarrierBook) -> None:
    world.guard_rules = GuardRules(shards=1, quota=Quota(messages=10))
    agent = world.agent(inbox_messages_max=0)
    site = await world.site()
    await world.send(*(message(agent) for _ in range(200)))
    await until(lambda: depth(world, agent) == 200)
    assert not (await book.read()).full
    assert site.guard is not None
    changed = msgspec.structs.replace(agent, inbox_messages_max=50)
    world.put(changed)
    site.guard.agent_changed(agent.id, changed)
    await until_found(book, agent)


async def test_another_router_goes_on_refusing_where_the_first_one_died(
    world: World, book: BarrierBook
) -> None:
    world.guard_rules = GuardRules(shards=1, quota=Quota(messages=10))
    agent = world.agent()
    first = await world.site()
    sent = await fill(world, book, agent)
    before = depth(world, agent)
    await first.kill()
    await world.site()
    for _ in range(20):
        await world.send(*(message(agent) for _ in range(10)))
        await settled(world)
    # The allowance of an inbox nobody has looked into, and what was routed while somebody did.
    assert depth(world, agent) <= before + 2 * UNSEEN_MESSAGES
    assert len(ended(world, FULL)) == sent + 200 - depth(world, agent)


async def fill(world: World, book: BarrierBook, agent: Agent) -> int:
    """Send until the doors hear that the inbox is full; return how many messages that took.

    What is on its way into an inbox that is looked into may not count: what follows has it looked into again.
    """
    sent = 0
    async with asyncio.timeout(20):
        while agent.id not in (await book.read()).full:
            sent += len(await world.send(*(message(agent) for _ in range(20))))
            await settled(world)
    return sent


async def until_found(book: BarrierBook, agent: Agent, *, there: bool = True) -> None:
    async with asyncio.timeout(10):
        while (agent.id in (await book.read()).full) is not there:  # noqa: ASYNC110  # nothing to wait on
            await asyncio.sleep(0.01)


# --- loops ------------------------------------------------------------------------------------------------


async def test_the_same_again_and_again_trips_and_both_hear_of_it_once(
    world: World, book: BarrierBook
) -> None:
    world.guard_rules = GuardRules(shards=1)
    sender, recipient = world.agent(), world.agent()
    await world.site()
    ids = await world.send(*(message(recipient, from_agent_id=sender.id) for _ in range(12)))
    await until(lambda: len(ended(world, LOOP)) == 7)
    assert set(ended(world, LOOP)) == set(ids[5:])
    await until(lambda: depth(world, recipient) == 5 + 1 and depth(world, sender) == 1)
    [trip] = (await book.read()).trips
    assert (trip.from_agent_id, trip.to_agent_id, trip.both) == (sender.id, recipient.id, False)
    assert [event.message is not None for event in world.events() if _is_note(event)].count(True) == 2
    # Nothing else of the pair goes that way; the other way it does.
    await world.send(message(recipient, from_agent_id=sender.id, content=b'{"other":1}'))
    await until(lambda: len(ended(world, LOOP)) == 8)
    await world.send(message(sender, from_agent_id=recipient.id))
    await until(lambda: depth(world, sender) == 2)


@pytest.mark.parametrize("noted", [False, True])
async def test_notes_whose_finder_died_before_it_published_them_are_published_once_by_another(
    world: World, book: BarrierBook, monkeypatch: pytest.MonkeyPatch, noted: bool
) -> None:
    monkeypatch.setattr(guarding, "NOTED_WITHIN_MS", 0)
    world.guard_rules = GuardRules(shards=1)
    one, other = world.agent(), world.agent()
    now_ms = int(time.time() * 1_000)
    trip = guarding.trip_of(Sign.REPEAT, one.id, other.id, at_ms=now_ms)
    assert await book.trip(trip)
    if noted:
        await world.publisher.publish_many(guarding.notes_of(trip, world.live.directory.get))
    await world.site()
    await until(lambda: depth(world, one) == depth(world, other) == 1)
    async with asyncio.timeout(10):
        while (await book.read()).unnoted:  # noqa: ASYNC110  # nothing to wait on
            await asyncio.sleep(0.01)
    # A marker: what was published before it has been routed.
    await world.send(message(one, content=b'{"last":1}'))
    await until(lambda: depth(world, one) == 2)
    assert depth(world, other) == 1
    assert await book.reset(trip.id)
    assert not [field for field in world.raw.hkeys(BARRIERS) if trip.id.encode() in field]


async def test_a_trip_that_cannot_be_told_of_opens_no_full_inbox(
    world: World, book: BarrierBook, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guarding, "NOTED_WITHIN_MS", 0)
    tries = 0

    async def unable(*_: object) -> None:
        nonlocal tries
        tries += 1
        raise StreamsUnavailable("the node of one of its agents is away")

    monkeypatch.setattr(Guard, "_note", unable)
    world.guard_rules = GuardRules(shards=1, quota=Quota(messages=10))
    one, other, agent = world.agent(), world.agent(), world.agent()
    trip = guarding.trip_of(Sign.REPEAT, one.id, other.id, at_ms=int(time.time() * 1_000))
    assert await book.trip(trip)
    await world.site()
    await until(lambda: tries > 0)
    for _ in range(10):
        await world.send(*(message(agent) for _ in range(20)))
        await settled(world)
    await until(lambda: len(ended(world, FULL)) > 0)
    await until_found(book, agent)


async def test_after_the_reset_messages_pass_again(world: World, book: BarrierBook) -> None:
    world.guard_rules = GuardRules(shards=1)
    sender, recipient = world.agent(), world.agent()
    site = await world.site()
    await world.send(*(message(recipient, from_agent_id=sender.id) for _ in range(6)))
    await until(lambda: len(ended(world, LOOP)) == 1)
    await until_trips(book, 1)
    [trip] = (await book.read()).trips
    assert await book.reset(trip.id)
    assert not await book.reset(trip.id)
    assert site.guard is not None
    barriers = site.guard.barriers
    await until(lambda: not barriers.tripped)
    await world.send(*(message(recipient, from_agent_id=sender.id) for _ in range(5)))
    await until(lambda: depth(world, recipient) == 5 + 1 + 5)
    assert len(ended(world, LOOP)) == 1


async def test_two_agents_that_only_answer_each_other_trip_both_ways(world: World) -> None:
    world.guard_rules = GuardRules(shards=1, loops=LoopRules(repeats=0))
    one, other = world.agent(), world.agent()
    await world.site()
    for turn in range(25):
        sender, recipient = (one, other) if turn % 2 else (other, one)
        body = f'{{"turn":{turn}}}'.encode()
        await world.send(message(recipient, from_agent_id=sender.id, content=body))
    await until(lambda: len(ended(world, LOOP)) == 5)


async def test_requests_and_their_replies_are_no_loop(world: World) -> None:
    world.guard_rules = GuardRules(shards=1)
    one, other = world.agent(), world.agent()
    await world.site()
    for turn in range(30):
        [asked] = await world.send(
            message(other, from_agent_id=one.id, content=f'{{"turn":{turn}}}'.encode())
        )
        answer = message(one, from_agent_id=other.id, content=b'{"ok":true}', reply_to=asked, hop=1)
        await world.send(answer)
    await until(lambda: depth(world, one) == depth(world, other) == 30)
    assert not ended(world, LOOP)


async def test_what_operators_and_the_broker_send_is_never_a_loop(world: World) -> None:
    world.guard_rules = GuardRules(shards=1)
    agent = world.agent()
    await world.site()
    await world.send(*(message(agent) for _ in range(50)))
    await until(lambda: depth(world, agent) == 50)


async def test_a_loop_between_shards_of_two_processes_is_found(streams_url: str) -> None:
    async with World(streams_url, shards=2) as world:
        world.guard_rules = GuardRules(shards=2, loops=LoopRules(repeats=0))
        one, other = world.agent(shard=0), world.agent(shard=1)
        guards = [(await world.site(shards=[shard])).guard for shard in (0, 1)]
        await until(lambda: not any(guard is None or guard._is_whole for guard in guards))
        for turn in range(1_000):
            sender, recipient = (one, other) if turn % 2 else (other, one)
            body = f'{{"turn":{turn}}}'.encode()
            await world.send(message(recipient, from_agent_id=sender.id, content=body))
            if ended(world, LOOP):
                break
            await asyncio.sleep(0.02)
        assert ended(world, LOOP)


async def test_a_root_has_so_many_messages_whoever_sends_them(world: World) -> None:
    world.guard_rules = GuardRules(shards=1, root_messages_max=20)
    root = new_id()
    agents = [world.agent() for _ in range(4)]
    await world.site()
    await world.send(
        *(
            message(agents[n % 4], from_agent_id=agents[(n + 1) % 4].id, root_id=root, hop=1 + n % 3)
            for n in range(30)
        )
    )
    await until(lambda: len(ended(world, (Status.FAILED, "root_limit"))) == 10)
    assert sum(depth(world, agent) for agent in agents) == 20


async def until_trips(book: BarrierBook, count: int) -> None:
    async with asyncio.timeout(10):
        while len((await book.read()).trips) != count:  # noqa: ASYNC110  # nothing to wait on
            await asyncio.sleep(0.01)


def _is_note(event: object) -> bool:
    body = getattr(event, "message", None)
    return isinstance(body, msgspec.Raw) and LOOP_TYPE.encode() in bytes(body)


# --- kill switches ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("what", ["sender", "recipient", "pair", "root"])
async def test_what_is_switched_off_ends(world: World, what: str) -> None:
    world.guard_rules = GuardRules(shards=1)
    sender, recipient, third = world.agent(), world.agent(), world.agent()
    site = await world.site()
    root = new_id()
    switches = {
        "sender": Switches(agents=frozenset({sender.id})),
        "recipient": Switches(agents=frozenset({recipient.id})),
        "pair": Switches(pairs=frozenset({(sender.id, recipient.id), (recipient.id, sender.id)})),
        "root": Switches(roots=frozenset({root})),
    }[what]
    assert site.guard is not None
    site.guard.switched(switches)
    [stopped] = await world.send(message(recipient, from_agent_id=sender.id, root_id=root))
    await world.send(message(third, from_agent_id=third.id))
    await until(lambda: ended(world, KILLED) == [stopped] and depth(world, third) == 1)
    site.guard.switched(Switches())
    await world.send(message(recipient, from_agent_id=sender.id, root_id=root))
    await until(lambda: depth(world, recipient) == 1)


async def test_what_waits_for_an_agent_that_is_killed_is_held_until_it_is_not(world: World) -> None:
    receiver = await world.receiver()
    agent = world.agent(receiver, killed=True)
    await world.site()
    await world.send(*(message(agent) for _ in range(5)))
    await until(lambda: depth(world, agent) == 5)
    assert not receiver.got
    world.put(msgspec.structs.replace(agent, killed=False))
    await world.until_clean()
    assert len(receiver.got) == 5
