"""Endpoints that say 410 or do nothing but fail: nothing is pushed there any more, nothing waits for ever,
and the keeper hears of each stage once, whoever owns the shard by then."""

import msgspec
from msgspec.structs import replace
from worker_rig import Site, World, message, until

from schema.agent import Agent, AgentStatus, EndpointFault
from schema.health import Finding, Verdict
from schema.message import Lane, Status

GONE = [(Status.FAILED, "gone")]
DISABLED = [(Status.FAILED, "endpoint_disabled")]
DELIVERED = [(Status.DELIVERED, None)]


def verdicts_of(world: World) -> list[Verdict]:
    entries = world.raw.xrange(world.keys[0].verdicts)
    return [msgspec.json.decode(fields[b"v"], type=Verdict) for _, fields in entries]


def remembered(world: World) -> dict[bytes, bytes]:
    return world.raw.hgetall(world.keys[0].failing)


async def fails_for_longer(site: Site, agent: Agent, *, by_ms: int) -> None:
    """Let what this owner knows of the endpoint's failures have begun earlier."""
    await site.until_ready()
    delivery = site.shards[0].delivery
    assert delivery is not None
    await until(lambda: agent.id in delivery.room.failing)
    delivery.room.failing[agent.id].since_ms -= by_ms


async def test_after_a_410_nothing_is_pushed_and_the_whole_queue_ends_with_that_reason(any_streams_url):
    """What is in memory, what lies behind it in Redis, retries that wait, and what comes later."""
    async with World(any_streams_url, scale=1) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver, concurrency=2)
        receiver.script = lambda got: 500 if len(receiver.got) <= 2 else 410
        site = await world.site()
        receiver.hold()
        ids = await world.send(*(message(agent) for _ in range(500)))
        await receiver.until(lambda it: it.under_way == 2)
        receiver.let_go()
        await world.until_ended(ids)
        assert all(world.ends()[one] == GONE for one in ids)
        # Two failed and waited for their retry, two (at most) were under way when the first 410 came.
        # An owner after a failure (a machine that stands still ends leases) has to find out by itself.
        assert len(receiver.got) <= 4 * (1 + len(site.failures)), site.failures
        late = await world.send(message(agent))
        await world.until_ended(late)
        assert world.ends()[late[0]] == GONE
        await world.until_clean()
        verdicts = verdicts_of(world)
        assert {(one.agent_id, one.finding) for one in verdicts} == {(agent.id, Finding.GONE)}
        assert len(verdicts) <= 1 + len(site.failures), site.failures


async def test_what_a_410_said_holds_until_the_record_says_it_too(streams_url):
    """Over the time in which idle books are closed, and over a change of something else in the record."""
    async with World(streams_url) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver)
        receiver.script = lambda _: 410
        site = await world.site()
        first = await world.send(message(agent))
        await world.until_ended(first)
        await until(lambda: not site.shards[0].delivery.room.mailboxes)
        world.put(replace(agent, name="another"))
        later = await world.send(message(agent))
        await world.until_ended(later)
        assert world.ends() == dict.fromkeys(first + later, GONE)
        assert len(receiver.got) == 1
        assert len(verdicts_of(world)) == 1


async def test_one_that_is_disabled_gets_nothing_and_once_enabled_everything_again(streams_url):
    async with World(streams_url) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver, endpoint_since_ms=1)
        await world.site()
        for fault, end in ((EndpointFault.FAILING, DISABLED), (EndpointFault.GONE, GONE)):
            world.put(replace(agent, endpoint_fault=fault, endpoint_disabled_ms=5))
            refused = await world.send(message(agent))
            await world.until_ended(refused)
            assert world.ends()[refused[0]] == end
        assert receiver.got == []
        world.put(replace(agent, endpoint_since_ms=9))
        ids = await world.send(*(message(agent) for _ in range(20)))
        await world.until_ended(ids)
        assert receiver.times == dict.fromkeys(ids, 1)


async def test_what_waits_for_one_that_is_disabled_meanwhile_ends(streams_url):
    """Behind an open breaker, in order: retries hold the rest, and none of it may wait for its time."""
    async with World(streams_url, scale=1) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver, ordered=True)
        receiver.script = lambda _: 500
        await world.site()
        ids = await world.send(*(message(agent) for _ in range(100)))
        await until(lambda: world.raw.zcard(world.keys[0].due) == 1)
        world.put(replace(agent, endpoint_fault=EndpointFault.FAILING, endpoint_disabled_ms=5))
        await world.until_ended(ids, timeout_s=10)
        assert all(world.ends()[one] == DISABLED for one in ids)
        await world.until_clean()


async def test_a_takeover_ends_what_waits_for_a_disabled_endpoint(streams_url):
    async with World(streams_url) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver, status=AgentStatus.PAUSED)
        first = await world.site()
        ids = await world.send(*(message(agent) for _ in range(50)))
        await until(lambda: world.raw.xlen(world.keys[0].mailbox(agent.id, Lane.NORMAL)) == 50)
        await first.kill()
        world.put(replace(agent, status=AgentStatus.ACTIVE, endpoint_fault=EndpointFault.GONE))
        await world.site()
        await world.until_ended(ids)
        assert all(world.ends()[one] == GONE for one in ids)
        assert receiver.got == []
        await world.until_clean()


async def test_each_stage_is_told_once_over_restarts_and_takeovers_and_forgotten_when_it_answers(streams_url):
    async with World(streams_url, scale=0.002) as world:
        # So long that no stage is reached, and none left out, by how long the test takes.
        world.rules["disable_after_ms"] = 1_000_000
        receiver = await world.receiver()
        agent = world.agent(receiver, endpoint_since_ms=7)
        receiver.script = lambda _: 503
        site = await world.site()
        ids = await world.send(*(message(agent, metadata={"max_retries": 24}) for _ in range(500)))
        await fails_for_longer(site, agent, by_ms=500_000)
        await until(lambda: len(verdicts_of(world)) == 1)
        await site.kill()
        site = await world.site()
        await fails_for_longer(site, agent, by_ms=200_000)
        await until(lambda: len(verdicts_of(world)) == 2)
        await site.stop()
        site = await world.site()
        await fails_for_longer(site, agent, by_ms=200_000)
        await until(lambda: len(verdicts_of(world)) == 3)
        await fails_for_longer(site, agent, by_ms=100_000)
        await until(lambda: len(verdicts_of(world)) == 4)
        told = verdicts_of(world)
        assert [one.stage for one in told] == [1, 2, 3, 4]
        assert {(one.finding, one.endpoint_since_ms, one.what) for one in told} == {
            (Finding.FAILING, 7, "http_5xx")
        }
        for one, percent in zip(told, (50, 70, 90, 100), strict=True):
            assert one.since_ms == told[0].since_ms - 10_000 * (percent - 50)
            assert one.at_ms - one.since_ms >= 10_000 * percent
        receiver.script = None
        await world.until_ended(ids, timeout_s=30)
        await until(lambda: len(verdicts_of(world)) == 5)
        assert verdicts_of(world)[-1].finding is Finding.RECOVERED
        assert remembered(world) == {}


async def test_nothing_is_written_about_an_endpoint_that_works(streams_url):
    async with World(streams_url) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver)
        receiver.script = lambda got: 500 if got.attempt == 1 and len(receiver.got) % 8 == 0 else 200
        await world.site()
        ids = await world.send(*(message(agent) for _ in range(100)))
        await world.until_ended(ids)
        assert (remembered(world), verdicts_of(world)) == ({}, [])
        assert world.raw.exists(world.keys[0].failing) == 0


async def test_a_known_failure_gets_one_probe_after_a_takeover_and_no_attempts_are_used(streams_url):
    """The next owner does not begin with five failures of its own."""
    async with World(streams_url, scale=1) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver)
        receiver.script = lambda _: 500
        first = await world.site()
        ids = await world.send(*(message(agent) for _ in range(200)))
        await until(lambda: bool(remembered(world)))
        await first.kill()
        before = len(receiver.got)
        receiver.hold()
        second = await world.site()
        await receiver.until(lambda it: it.under_way == 1)
        await second.until_ready()
        delivery = second.shards[0].delivery
        assert delivery is not None
        await until(lambda: delivery.room.queued >= 1)
        assert (receiver.under_way, delivery.room.breakers_open) == (1, 1)
        receiver.let_go()
        await until(lambda: delivery.in_flight == 0)
        assert len(receiver.got) == before + 1
        assert len(receiver.times) <= before + 1 < len(ids)


async def test_what_was_remembered_of_an_endpoint_says_nothing_of_the_next(streams_url):
    async with World(streams_url, scale=0.05) as world:
        world.rules["disable_after_ms"] = 1_000_000
        receiver = await world.receiver()
        agent = world.agent(receiver, endpoint_since_ms=1)
        world.raw.hset(world.keys[0].failing, agent.id, b"[5,4,1]")  # since 1970, everything told
        fresh: Agent = replace(agent, endpoint_since_ms=2)
        world.put(fresh)
        receiver.script = lambda _: 500
        site = await world.site()
        await site.until_ready()
        await world.send(*(message(agent) for _ in range(20)))
        delivery = site.shards[0].delivery
        assert delivery is not None
        await until(lambda: delivery.room.failing[agent.id].endpoint_since_ms == 2)
        await fails_for_longer(site, agent, by_ms=500_000)
        await until(lambda: bool(verdicts_of(world)))
        first = verdicts_of(world)[0]
        assert (first.stage, first.since_ms > 5, first.endpoint_since_ms) == (1, True, 2)
