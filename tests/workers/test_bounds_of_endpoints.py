"""What one endpoint may take: so many requests at a time, so many a second, so long for each; and that what
the others hold keeps nobody waiting."""

import asyncio
import time

import pytest
from worker_rig import DEADLINES, PATIENT, World, message, until

from broker.core.pace import BURST_MS
from schema.delivery import AttemptStatus
from schema.ids import new_id
from schema.limits import ENDPOINT_IN_FLIGHT_MAX
from schema.message import Lane, Status
from workers.delivery.endpoint import Allowance

DELIVERED = [(Status.DELIVERED, None)]


def went_ms(world: World, ids: list[str]) -> list[int]:
    """Return when each request for these messages went, in order."""
    told = world.by_id()
    return sorted(event.attempt.attempted_ms for one in ids for event in told[one] if event.attempt)


@pytest.mark.parametrize("own", [None, 40])
async def test_an_endpoint_is_pushed_to_no_faster_than_it_may(streams_url, own):
    """As the deployment says, or as the agent does; others go on beside it."""
    rate = own or 80
    async with World(streams_url) as world:
        world.rules["allowance"] = Allowance(pushes_per_second=80)
        receiver, other, third = [await world.receiver() for _ in range(3)]
        slow = world.agent(receiver, max_pushes_per_second=own)
        fast = world.agent(other, max_pushes_per_second=100_000)
        crawling = world.agent(third, max_pushes_per_second=1)
        await world.site()
        began_s = time.monotonic()
        seen: list[float] = []
        receiver.script = lambda _: seen.append(time.monotonic()) or 200
        await world.send(*(message(crawling) for _ in range(60)))
        ids = await world.send(*(message(slow) for _ in range(60)))
        beside = await world.send(*(message(fast) for _ in range(200)))
        await world.until_ended(beside)
        await world.until_ended(ids)
        assert len(third.got) < 60
        assert receiver.times == dict.fromkeys(ids, 1)
        # A request may be seen late, never early; when it went, the worker says itself.
        for number, seen_s in enumerate(seen, 1):
            assert number <= rate * (seen_s - began_s + BURST_MS / 1000) + 1
        went = went_ms(world, ids)
        assert len(went) == 60
        for first in range(60):
            for last in range(first + 1, 60):
                stretch_ms = went[last] - went[first]
                assert last - first + 1 <= rate * (stretch_ms + BURST_MS) / 1000 + 1


async def test_the_deployment_says_how_many_at_a_time_where_the_agent_does_not(streams_url):
    async with World(streams_url) as world:
        world.rules["allowance"] = Allowance(concurrency=2)
        receiver, other = await world.receiver(), await world.receiver()
        plain, own = world.agent(receiver), world.agent(other, concurrency=7)
        receiver.hold()
        other.hold()
        await world.site()
        ids = await world.send(*(message(agent) for agent in (plain, own) for _ in range(20)))
        await receiver.until(lambda it: it.under_way == 2)
        await other.until(lambda it: it.under_way == 7)
        receiver.let_go()
        other.let_go()
        await world.until_ended(ids)
        assert (receiver.under_way_most, other.under_way_most) == (2, 7)


@pytest.mark.parametrize(("asked", "most_ms", "is_ms"), [(1, 60_000, 1_000), (600, 2_000, 2_000)])
async def test_a_message_may_ask_for_a_deadline_of_its_own_within_that_of_the_deployment(
    streams_url, asked, most_ms, is_ms
):
    async with World(streams_url) as world:
        world.rules["own_total_ms_max"] = most_ms
        receiver = await world.receiver()
        agent = world.agent(receiver)
        receiver.hold()
        await world.site()
        [sent] = await world.send(message(agent, metadata={"timeout": asked, "max_retries": 0}))
        await world.until_ended([sent])
        [attempt] = [event.attempt for event in world.by_id()[sent] if event.attempt]
        assert attempt.status is AttemptStatus.TIMEOUT
        assert is_ms <= attempt.duration_ms < DEADLINES.total_ms


# --- head of line -----------------------------------------------------------------------------------------


async def test_fast_endpoints_get_everything_while_others_hold_all_they_may(any_streams_url):
    """Black holes with half of the traffic and slow ones hold what they can get; whatever that is, all that
    goes to the others arrives. No clock: nothing the stuck ones have is let go before."""
    async with World(any_streams_url) as world:
        world.rules["deadlines"] = PATIENT
        stuck, fast = await world.receiver(), await world.receiver()
        holes = [world.agent(stuck) for _ in range(20)]
        well = [world.agent(fast) for _ in range(80)]
        stuck.hold()
        await world.site()
        ids: list[str] = []
        held: list[str] = []
        for lane in (Lane.NORMAL, Lane.HIGH, Lane.LOW):
            held += await world.send(*(message(hole, lane=lane) for _ in range(20) for hole in holes))
            ids += await world.send(*(message(agent, lane=lane) for _ in range(6) for agent in well))
        await world.until_ended(ids, timeout_s=40)
        assert fast.times == dict.fromkeys(ids, 1)
        assert stuck.under_way == len(holes) * ENDPOINT_IN_FLIGHT_MAX
        stuck.let_go()
        await world.until_ended(held, timeout_s=40)
        assert stuck.times == dict.fromkeys(held, 1)
        await world.until_clean()


async def test_an_endpoint_that_comes_back_to_a_backlog_is_not_overrun_and_nothing_was_used_up(streams_url):
    """Down with much waiting: while the breaker is open only probes go; then as many at a time, and a second,
    as it may have."""
    rate, waiting = 400, 600
    async with World(streams_url, scale=0.05) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver, max_pushes_per_second=rate)
        down = True
        receiver.script = lambda _: 503 if down else 200
        site = await world.site()
        ids = await world.send(*(message(agent) for _ in range(waiting)))
        await site.until_ready()
        delivery = site.shards[0].delivery
        assert delivery is not None
        await until(lambda: delivery.room.breakers_open == 1)
        failures = len(receiver.got)
        await until(lambda: len(receiver.got) >= failures + 3)  # three probes at least
        probed, receiver.under_way_most = len(receiver.got), 0
        down = False
        await world.until_ended(ids, timeout_s=60)
        assert receiver.under_way_most <= ENDPOINT_IN_FLIGHT_MAX
        # Only what was posted while it was down has failed attempts: the rest was delivered at the first.
        tried = [one for one, count in receiver.times.items() if count > 1]
        assert len(tried) <= probed
        assert probed <= failures + 20, "probes, not attempts of everything that waits"
        assert all(ends == DELIVERED for ends in world.ends().values())
        went = went_ms(world, ids)
        for first in range(0, waiting, 10):
            for last in range(first + 10, len(went), 10):
                assert last - first <= rate * (went[last] - went[first] + BURST_MS) / 1000 + 1
        await world.until_clean()


async def test_behind_an_open_breaker_there_is_one_probe_at_a_time(streams_url):
    async with World(streams_url, scale=0.02) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver)
        receiver.script = lambda _: 500
        site = await world.site()
        await world.send(*(message(agent, metadata={"max_retries": 20}) for _ in range(50)))
        await site.until_ready()
        delivery = site.shards[0].delivery
        assert delivery is not None
        await until(lambda: delivery.room.breakers_open == 1)
        await until(lambda: delivery.in_flight == 0)
        receiver.under_way_most = 0
        before = len(receiver.got)
        await receiver.until(lambda it: len(it.got) >= before + 6)
        assert receiver.under_way_most == 1
        receiver.hold()
        await receiver.until(lambda it: it.under_way == 1)
        # As long as several probes were apart: nothing goes beside the one that is out.
        await asyncio.sleep(0.3)
        assert receiver.under_way == 1
        receiver.let_go()


# --- what nobody can read, or post --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "junk", [{b"m": b"{}"}, {b"m": b"\xff\xfe"}, {b"x": b"1"}, {b"m": b"[1]", b"w": b"\xff"}]
)
async def test_an_entry_that_is_no_message_is_set_aside_and_the_shard_goes_on(any_streams_url, junk):
    """Somebody wrote into a mailbox by hand: in front of messages, between them, and where a retry is due."""
    async with World(any_streams_url) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver)
        mailbox = world.keys[0].mailbox(agent.id, Lane.NORMAL)
        router = await world.site("route")
        entries = [world.raw.xadd(mailbox, junk)]
        ids = await world.send(*(message(agent) for _ in range(20)))
        await until(lambda: world.raw.xlen(mailbox) == 21)
        entries += [world.raw.xadd(mailbox, junk) for _ in range(3)]
        world.raw.zadd(world.keys[0].due, {f"{mailbox}|{entries[1].decode()}|1": 1})
        world.raw.zadd(world.keys[0].expiry, {f"{mailbox}|{entries[2].decode()}": 1})
        await router.stop()
        site = await world.site()
        ids += await world.send(*(message(agent) for _ in range(20)))
        await world.until_ended(ids)
        assert receiver.times == dict.fromkeys(ids, 1)
        await world.until_clean()
        aside = [event for event in world.events() if event.kind.value == "quarantined"]
        assert sorted(event.id for event in aside) == sorted(entry.decode() for entry in entries)
        assert {(event.stream, event.reason) for event in aside} == {(mailbox, "malformed")}
        assert site.failures == []


async def test_a_message_on_which_our_own_code_fails_ends_as_poison_and_the_shard_goes_on(
    streams_url, monkeypatch
):
    from workers.delivery import dispatch
    from workers.delivery.endpoint import Endpoint

    bad_to_post, bad_to_conclude = new_id(), new_id()
    head, plain = Endpoint.head, dispatch.plain_event

    def broken_head(endpoint, item, stamp):
        if item.id == bad_to_post:
            raise ZeroDivisionError
        return head(endpoint, item, stamp)

    def broken_plain(item, answer, now_ms):
        if item.id == bad_to_conclude:
            raise ZeroDivisionError
        return plain(item, answer, now_ms)

    monkeypatch.setattr(Endpoint, "head", broken_head)
    monkeypatch.setattr(dispatch, "plain_event", broken_plain)
    async with World(streams_url) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver)
        site = await world.site()
        mixed = [message(agent, id=bad_to_post), message(agent), message(agent, id=bad_to_conclude)]
        ids = await world.send(*mixed, *(message(agent) for _ in range(20)))
        await world.until_ended(ids)
        ends = world.ends()
        assert ends.pop(bad_to_post) == ends.pop(bad_to_conclude) == [(Status.FAILED, "poison")]
        assert all(end == DELIVERED for end in ends.values())
        assert site.failures == []
        await world.until_clean()
