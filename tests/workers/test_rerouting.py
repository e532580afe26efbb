"""Messages whose agent, chosen by capability, does not manage or want them: at one agent at a time."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from worker_rig import World, message, until

from schema.ledger import EventKind
from schema.limits import MESSAGE_BYTES_MAX, REROUTE_ATTEMPTS, REROUTES_MAX
from schema.message import Lane, Status

DELIVERED = [(Status.DELIVERED, None)]
SKILL = ["sums"]


def declines(_: object) -> tuple[int, bytes]:
    return 200, b'{"status":"declined","reason":"not today"}'


def refuses(_: object) -> tuple[int, bytes]:
    return 422, b'{"status": "declined"}'


def history(world: World, message_id: str) -> list[tuple[str, str]]:
    """Who was tried, as the route of the last placement says, and who has it now."""
    routes = [event.route for event in world.by_id()[message_id] if event.route is not msgspec.UNSET]
    last = msgspec.json.decode(routes[-1])
    return [(one["agent_id"], one["reason"]) for one in last.get("tried", ())] + [(last["chosen"], "")]


@pytest.mark.parametrize("answer", [declines, refuses], ids=["accepted", "refused"])
@pytest.mark.parametrize("shards", [1, 2])
async def test_what_an_agent_declines_goes_to_the_next_at_once(any_streams_url, answer, shards):
    async with World(any_streams_url, shards=shards, scale=1.0) as world:
        unwilling, willing = await world.receiver(), await world.receiver()
        unwilling.script = answer
        first = world.agent(unwilling, capabilities=tuple(SKILL))
        second = world.agent(willing, capabilities=tuple(SKILL), shard=shards - 1)
        await world.site()
        sent = await world.send(*(message(requirements=SKILL) for _ in range(60)))
        await world.until_ended(sent)
        assert {one: world.ends()[one] for one in sent} == dict.fromkeys(sent, DELIVERED)
        assert willing.times == dict.fromkeys(sent, 1)
        declined = unwilling.times
        assert declined
        assert set(declined.values()) == {1}
        for one in declined:
            assert history(world, one) == [(first.id, "declined"), (second.id, "")]
            attempts = [event.attempt for event in world.by_id()[one] if event.attempt is not None]
            assert sorted(attempt.number for attempt in attempts) == [1, 2]
            assert [a.agent_id for a in attempts if a.error == "declined"] == [first.id]
        await world.until_clean()


async def test_after_a_short_budget_of_attempts_another_gets_it(any_streams_url):
    async with World(any_streams_url) as world:
        broken, whole = await world.receiver(), await world.receiver()
        broken.script = lambda _: 500
        world.agent(broken, capabilities=tuple(SKILL))
        await world.site()
        [sent] = await world.send(message(requirements=SKILL))
        await broken.until(lambda it: len(it.got) == 1)
        world.agent(whole, capabilities=tuple(SKILL))
        await world.until_ended([sent])
        assert world.ends()[sent] == DELIVERED
        assert broken.times == {sent: REROUTE_ATTEMPTS}
        assert whole.times == {sent: 1}
        numbers = [event.attempt.number for event in world.by_id()[sent] if event.attempt is not None]
        assert sorted(numbers) == [1, 2, 3, 4]
        await world.until_clean()


async def test_with_nobody_else_there_the_agent_keeps_its_whole_schedule(any_streams_url):
    async with World(any_streams_url, scale=0.001) as world:
        broken = await world.receiver()
        broken.script = lambda _: 500
        world.agent(broken, capabilities=tuple(SKILL))
        await world.site()
        [sent] = await world.send(message(requirements=SKILL, metadata={"max_retries": 4}))
        await world.until_ended([sent])
        assert world.ends()[sent] == [(Status.FAILED, "exhausted")]
        assert broken.times == {sent: 5}
        await world.until_clean()


async def test_who_was_named_is_never_replaced(any_streams_url):
    async with World(any_streams_url) as world:
        unwilling, willing = await world.receiver(), await world.receiver()
        unwilling.script = declines
        named = world.agent(unwilling, capabilities=tuple(SKILL))
        world.agent(willing, capabilities=tuple(SKILL))
        await world.site()
        sent = await world.send(message(named), message(named, requirements=SKILL))
        await world.until_ended(sent)
        assert [world.ends()[one] for one in sent] == [[(Status.FAILED, "declined")]] * 2
        assert not willing.got
        await world.until_clean()


async def test_when_everybody_has_declined_it_fails_and_nobody_was_asked_twice(any_streams_url):
    async with World(any_streams_url) as world:
        receiver = await world.receiver()
        receiver.script = declines
        agents = [world.agent(receiver, capabilities=tuple(SKILL)) for _ in range(3)]
        await world.site()
        sent = await world.send(*(message(requirements=SKILL) for _ in range(20)))
        await world.until_ended(sent)
        declined = [(Status.FAILED, "declined")]
        assert {one: world.ends()[one] for one in sent} == dict.fromkeys(sent, declined)
        assert receiver.times == dict.fromkeys(sent, len(agents))
        ended = [event for event in world.events() if event.kind is EventKind.SETTLED]
        assert {event.to for event in ended} <= {agent.id for agent in agents}
        for one in sent:
            asked = Counter(e.attempt.agent_id for e in world.by_id()[one] if e.attempt is not None)
            assert asked == dict.fromkeys((agent.id for agent in agents), 1)
        await world.until_clean()


async def test_the_number_of_agents_that_are_tried_is_bounded(any_streams_url):
    async with World(any_streams_url) as world:
        receiver = await world.receiver()
        receiver.script = declines
        for _ in range(REROUTES_MAX + 4):
            world.agent(receiver, capabilities=tuple(SKILL))
        await world.site()
        [sent] = await world.send(message(requirements=SKILL))
        await world.until_ended([sent])
        assert world.ends()[sent] == [(Status.FAILED, "declined")]
        assert receiver.times == {sent: REROUTES_MAX + 1}
        await world.until_clean()


@pytest.mark.parametrize("shards", [1, 2])
async def test_the_largest_message_the_edge_takes_arrives_whatever_the_broker_adds_on_its_way(
    streams_url, shards
):
    async with World(streams_url, shards=shards) as world:
        receiver = await world.receiver()
        receiver.script = lambda got: 200 if got.message["to_agent_id"] == willing.id else declines(got)
        for _ in range(2):
            world.agent(receiver, capabilities=tuple(SKILL))
        willing = world.agent(receiver, capabilities=tuple(SKILL), shard=shards - 1)
        await world.site()
        # The edge bounds the body of the request; ids, times and who was tried come on top of it.
        content = b'{"requirements":["sums"],"a":"' + b"x" * (MESSAGE_BYTES_MAX - 60) + b'"}'
        sent = await world.send(message(willing, content=content), message(content=content))
        await world.until_ended(sent)
        assert {one: world.ends()[one] for one in sent} == dict.fromkeys(sent, DELIVERED)
        await world.until_clean()


@pytest.mark.parametrize("shards", [1, 2])
async def test_owners_that_die_meanwhile_lose_nothing_and_never_leave_it_at_two_agents(
    any_streams_url, shards
):
    async with World(any_streams_url, shards=shards) as world:
        receiver = await world.receiver()
        agents = {
            agent.id: agent
            for number in range(4)
            for agent in [world.agent(receiver, capabilities=tuple(SKILL), shard=number % shards)]
        }
        unwilling = set(list(agents)[:2])
        receiver.script = lambda got: declines(got) if got.message["to_agent_id"] in unwilling else 200
        site = await world.site()
        sent: list[str] = []

        def most_ended():
            return sum(map(bool, world.ends().values())) > len(sent) // 2

        for _ in range(4):
            sent += await world.send(*(message(requirements=SKILL) for _ in range(40)))
            await until(most_ended)
            await site.kill()
            site = await world.site()
        await world.until_ended(sent)
        assert {one: world.ends()[one] for one in sent} == dict.fromkeys(sent, DELIVERED)
        # What was in flight at a kill is sent again, to the same agent: never is it at two willing ones.
        took = {one: {got.message["to_agent_id"] for got in receiver.got if got.id == one} for one in sent}
        assert {one: len(who - unwilling) for one, who in took.items()} == dict.fromkeys(sent, 1)
        await world.until_clean()


async def test_what_is_cancelled_while_it_is_declined_goes_nowhere(any_streams_url):
    async with World(any_streams_url) as world:
        unwilling, willing = await world.receiver(), await world.receiver()
        unwilling.script = declines
        unwilling.hold()
        first = world.agent(unwilling, capabilities=tuple(SKILL))
        await world.site()
        await world.send(message(requirements=SKILL))
        await unwilling.until(lambda it: it.under_way == 1)
        world.agent(willing, capabilities=tuple(SKILL))
        mailbox = world.keys[0].mailbox(first.id, Lane.NORMAL)
        [(entry, _)] = world.raw.xrange(mailbox)
        world.raw.xdel(mailbox, entry)  # as a cancellation does
        unwilling.let_go()
        await until(lambda: any(event.attempt for event in world.events()))
        await world.until_clean()
        assert not willing.got
        assert len([event for event in world.events() if event.attempt]) == 1


async def test_it_expires_rather_than_being_passed_on_too_late(any_streams_url):
    async with World(any_streams_url) as world:
        unwilling, willing = await world.receiver(), await world.receiver()
        unwilling.script = declines
        unwilling.hold()
        world.agent(unwilling, capabilities=tuple(SKILL))
        await world.site()
        sent, expires_at = "", datetime.now(UTC)
        while not unwilling.under_way:
            # On a machine that stands still one may expire before it is posted.
            expires_at = datetime.now(UTC) + timedelta(milliseconds=300)
            [sent] = await world.send(message(requirements=SKILL, expires_at=expires_at))
            await until(lambda sent=sent: bool(unwilling.under_way or world.ends().get(sent)))
        assert unwilling.ids == [sent]
        world.agent(willing, capabilities=tuple(SKILL))
        await until(lambda: datetime.now(UTC) > expires_at)
        unwilling.let_go()
        await world.until_ended([sent])
        assert world.ends()[sent] == [(Status.EXPIRED, "expired")]
        assert not willing.got
        await world.until_clean()
