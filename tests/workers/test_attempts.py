"""Attempts: counted, bounded, spaced by the breaker, and taken over with their count."""

import asyncio
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from worker_rig import BOTH, World, message, until

from schema.delivery import AttemptStatus
from schema.ledger import EventKind
from schema.limits import COLLECT_ENTRIES_PER_MAILBOX_MAX, COLLECT_MAILBOXES_MAX
from schema.message import LANES, Lane, Status


def attempts_of(events) -> list[tuple[int, AttemptStatus, int | None]]:
    return [
        (one.attempt.number, one.attempt.status, one.attempt.response_code) for one in events if one.attempt
    ]


async def test_attempts_are_counted_in_the_header_and_on_record(any_streams_url):
    async with World(any_streams_url) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver)
        receiver.script = lambda got: 200 if got.attempt == 3 else 503
        await world.site()
        [sent] = await world.send(message(agent))
        await world.until_ended([sent])
        assert [(got.id, got.attempt) for got in receiver.got] == [(sent, 1), (sent, 2), (sent, 3)]
        events = world.by_id()[sent]
        assert attempts_of(events) == [
            (1, AttemptStatus.FAILED, 503),
            (2, AttemptStatus.FAILED, 503),
            (3, AttemptStatus.SUCCESS, 200),
        ]
        assert [one.kind for one in events if one.attempt] == [EventKind.ATTEMPTED] * 2 + [EventKind.SETTLED]
        assert len({got.body for got in receiver.got}) == 1
        await world.until_clean()


@pytest.mark.parametrize(
    ("status", "metadata", "tries", "end"),
    [
        (500, {}, 6, (Status.FAILED, "exhausted")),
        (500, {"max_retries": 2}, 3, (Status.FAILED, "exhausted")),
        (500, {"retry_policy": "none"}, 1, (Status.FAILED, "exhausted")),
        (404, {}, 3, (Status.FAILED, "rejected")),
        (410, {}, 1, (Status.FAILED, "gone")),
        (302, {"max_retries": 1}, 2, (Status.FAILED, "exhausted")),
    ],
)
async def test_a_message_that_never_gets_through_ends_once_with_its_reason(
    streams_url, status, metadata, tries, end
):
    async with World(streams_url, scale=0.002) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver)
        receiver.script = lambda _: status
        await world.site()
        [sent] = await world.send(message(agent, metadata=metadata))
        await world.until_ended([sent])
        assert [got.attempt for got in receiver.got] == list(range(1, tries + 1))
        assert world.ends()[sent] == [end]
        await world.until_clean()


async def test_an_endpoint_that_cannot_be_used_fails_its_messages_and_nothing_else(streams_url):
    async with World(streams_url) as world:
        receiver = await world.receiver()
        agents = [
            world.agent(endpoint="http://user@127.0.0.1/"),
            world.agent(endpoint="gopher://127.0.0.1/"),
            world.agent(receiver, signing_secret=""),
        ]
        fine = world.agent(receiver)
        await world.site()
        ids = await world.send(*(message(agent) for agent in agents for _ in range(200)))
        [good] = await world.send(message(fine))
        await world.until_ended([*ids, good])
        assert all(world.ends()[one] == [(Status.FAILED, "endpoint_invalid")] for one in ids)
        assert receiver.ids == [good]
        await world.until_clean()


async def test_while_the_breaker_is_open_messages_wait_without_using_attempts(streams_url):
    async with World(streams_url, scale=0.1) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver)
        broken = True
        receiver.script = lambda _: 500 if broken else 200
        await world.site()
        ids = await world.send(*(message(agent) for _ in range(200)))
        await until(lambda: len(receiver.got) >= 5)
        before = len(receiver.got)
        await asyncio.sleep(0.3)  # the breaker stays open for half a second
        assert len(receiver.got) - before <= 4, "those in flight when it opened, no more"
        broken = False
        await world.until_ended(ids, timeout_s=30)
        assert sorted(set(receiver.ids)) == sorted(ids)
        untroubled = [one for one, count in receiver.times.items() if count == 1]
        assert len(untroubled) >= 180
        assert all(ends == [(Status.DELIVERED, None)] for ends in world.ends().values())
        await world.until_clean()


async def test_a_dead_endpoint_holds_up_nobody_else(streams_url, unused_tcp_port):
    async with World(streams_url) as world:
        receiver = await world.receiver()
        dead = [world.agent(endpoint=f"http://127.0.0.1:{unused_tcp_port}/") for _ in range(20)]
        fine = world.agent(receiver)
        await world.site()
        await world.send(*(message(agent) for agent in dead for _ in range(100)))
        ids = await world.send(*(message(fine) for _ in range(100)))
        await world.until_ended(ids)
        assert receiver.times == dict.fromkeys(ids, 1)


async def test_a_reply_goes_back_to_the_sender_before_the_message_is_settled(streams_url):
    async with World(streams_url) as world:
        receiver = await world.receiver()
        asker, answerer = world.agent(), world.agent(receiver)
        receiver.script = lambda _: (200, b'{"status":"processed","result":{"n":1},"reply":{"hello":"you"}}')
        await world.site()
        [sent] = await world.send(message(answerer, from_agent_id=asker.id))
        await world.until_ended([sent])
        assert world.ends()[sent] == [(Status.PROCESSED, None)]
        [back] = [events[0] for name, events in world.by_id().items() if name != sent]
        from schema.codec import decode_stored_envelope

        envelope = decode_stored_envelope(back.message)
        assert (envelope.to_agent_id, envelope.from_agent_id, envelope.reply_to) == (
            asker.id,
            answerer.id,
            sent,
        )
        assert (envelope.message_type, bytes(envelope.content)) == ("response", b'{"hello":"you"}')


@pytest.mark.parametrize(
    "body",
    [
        b'{"reply":null}',
        b'{"reply":"text"}',
        b'{"reply":[1]}',
        b'{"status":"processed","reply":',
        b'{"status":5}',
        b'\xff"status"',
    ],
)
async def test_an_answer_that_is_no_reply_is_a_delivery_all_the_same(streams_url, body):
    """Agents answer with whatever they like; what is no reply must not come back as a quarantined message."""
    async with World(streams_url) as world:
        receiver = await world.receiver()
        asker, answerer = world.agent(), world.agent(receiver)
        receiver.script = lambda _: (200, body)
        await world.site()
        [sent] = await world.send(message(answerer, from_agent_id=asker.id))
        await world.until_ended([sent])
        await world.until_clean()
        assert list(world.by_id()) == [sent]


# --- takeover -------------------------------------------------------------------------------------------


async def test_a_second_owner_sends_again_what_was_in_flight_with_the_same_id(any_streams_url):
    async with World(any_streams_url) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver)
        first = await world.site()
        settled = await world.send(*(message(agent) for _ in range(10)))
        await world.until_ended(settled)
        receiver.hold()
        ids = await world.send(*(message(agent, lane=lane) for lane in LANES for _ in range(40)))
        await receiver.until(lambda it: it.under_way == 4)
        in_flight = set(receiver.ids[10:])
        await first.kill()
        receiver.let_go()
        await world.site()
        await world.until_ended(ids, timeout_s=30)
        assert all(receiver.times[one] == 1 for one in settled)
        assert all(receiver.times[one] == (2 if one in in_flight else 1) for one in ids)
        assert all(len(ends) == 1 for ends in world.ends().values())
        await world.until_clean()


async def test_retries_keep_their_count_over_a_takeover(any_streams_url):
    """Waiting ones, and those under way: neither begins at one again, neither is sent twice at once."""
    async with World(any_streams_url, scale=0.3) as world:
        receiver = await world.receiver()
        agents = [world.agent(receiver) for _ in range(10)]
        seen: dict[tuple[str, int], int] = {}

        def count(got):
            seen[got.id, got.attempt] = seen.get((got.id, got.attempt), 0) + 1
            return 500

        receiver.script = count
        first = await world.site()
        ids = await world.send(*(message(agent) for agent in agents for _ in range(2)))
        await until(lambda: world.raw.zcard(world.keys[0].due) == 20)
        await until(lambda: any(attempt == 2 for _, attempt in seen))
        receiver.hold()
        await first.kill()
        before = {one: max(attempt for name, attempt in seen if name == one) for one in ids}
        receiver.script = lambda got: count(got) and 200
        receiver.let_go()
        again_from = len(receiver.got)
        await world.site()
        await world.until_ended(ids, timeout_s=30)
        for got in receiver.got[again_from:]:
            assert got.attempt in (before[got.id], before[got.id] + 1)
        assert sorted(got.id for got in receiver.got[again_from:]) == sorted(ids)
        assert all(len(ends) == 1 for ends in world.ends().values())
        await world.until_clean()


async def test_many_waiting_retries_of_one_mailbox_survive_a_takeover_without_a_double(any_streams_url):
    """More retries than one read brings: the reads come by entries whose retry is in memory again."""
    # Whatever the machine does: the first owner is dead before the first of them is due.
    async with World(any_streams_url, scale=60) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver, concurrency=50)
        first = await world.site()
        receiver.hold()
        receiver.script = lambda _: 500
        ids = await world.send(*(message(agent) for _ in range(50)))
        await receiver.until(lambda it: it.under_way == 50)
        receiver.let_go()
        due = world.keys[0].due
        await until(lambda: world.raw.zcard(due) == 50)
        await first.kill()
        world.raw.zadd(due, dict.fromkeys(world.raw.zrange(due, 0, -1), 1))  # their time is now
        world.scale = 0.1
        receiver.script = None
        again_from = len(receiver.got)
        more = await world.send(*(message(agent) for _ in range(10)))
        await world.site()
        await world.until_ended([*ids, *more], timeout_s=30)
        assert sorted(got.id for got in receiver.got[again_from:]) == sorted([*ids, *more])
        assert {got.attempt for got in receiver.got[again_from:] if got.id in ids} == {2}
        assert len(ids) > 3 * COLLECT_ENTRIES_PER_MAILBOX_MAX
        await world.until_clean()


async def test_a_takeover_reads_every_mailbox_there_is(any_streams_url):
    """More mailboxes than are read at once, with little in each: none is left behind."""
    async with World(any_streams_url) as world:
        receiver = await world.receiver()
        agents = [world.agent(receiver) for _ in range(4 * COLLECT_MAILBOXES_MAX)]
        router = await world.site("route")
        ids = await world.send(*(message(agent) for agent in agents))
        await until(lambda: world.raw.zcard(world.keys[0].active) == len(agents))
        await router.kill()
        await world.site()
        await world.until_ended(ids)
        assert receiver.times == dict.fromkeys(ids, 1)
        await world.until_clean()


async def test_what_a_fenced_owner_settles_changes_nothing(any_streams_url):
    async with World(any_streams_url) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver)
        first = await world.site()
        receiver.hold()
        ids = await world.send(*(message(agent) for _ in range(4)))
        await receiver.until(lambda it: it.under_way == 4)
        second = await world.site()  # took the leases; the first does not know it yet
        await receiver.until(lambda it: len(it.got) == 8)
        receiver.let_go()
        await world.until_ended(ids)
        for lease in tuple(first.leases):
            await first.give_up(lease, gracefully=False)
        await asyncio.sleep(0.1)
        assert all(ends == [(Status.DELIVERED, None)] for ends in world.ends().values())
        assert first.failures == second.failures == []
        await world.until_clean()


async def test_a_drain_finishes_what_is_in_flight_and_the_next_owner_repeats_nothing(any_streams_url):
    async with World(any_streams_url) as world:
        receiver = await world.receiver()
        agent, asker = world.agent(receiver), world.agent()
        first = await world.site()
        receiver.script = lambda _: (200, b'{"reply":{"a":1}}')
        receiver.hold()
        ids = await world.send(*(message(agent, from_agent_id=asker.id) for _ in range(100)))
        await receiver.until(lambda it: it.under_way == 4)
        delivery = first.shards[0].delivery
        stopping = asyncio.ensure_future(first.stop())
        await until(lambda: delivery.dispatch.stopping)
        receiver.let_go()
        await stopping
        assert len(receiver.got) == 4
        assert sum(map(bool, world.ends().values())) == 4
        await world.site(*BOTH)
        await world.until_ended(ids)
        assert receiver.times == dict.fromkeys(ids, 1)


async def test_a_stop_and_a_start_of_one_trade_leaves_the_other_at_work(any_streams_url):
    async with World(any_streams_url) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver)
        site = await world.site()
        ids: list[str] = []
        for trade in ("deliver", "route") * 5:
            ids += await world.send(*(message(agent, lane=Lane.LOW) for _ in range(20)))
            [lease] = [one for one in site.leases if one.trade == trade]
            await site.give_up(lease)
            ids += await world.send(*(message(agent) for _ in range(20)))
            await site.take(0, trade)
        await world.until_ended(ids, timeout_s=30)
        assert receiver.times == dict.fromkeys(ids, 1)
        assert site.failures == []
        await world.until_clean()


async def test_retries_survive_an_endpoint_that_is_taken_away_and_given_back(any_streams_url):
    """Waiting in Redis, or back in memory behind an open breaker: none is forgotten, none begins at one."""
    async with World(any_streams_url, scale=0.05) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver, concurrency=20)
        receiver.script = lambda _: 500
        site = await world.site()
        # All are out before the first fails: behind an open breaker they would go one by one.
        receiver.hold()
        ids = await world.send(*(message(agent, metadata={"max_retries": 20}) for _ in range(20)))
        await receiver.until(lambda it: it.under_way == 20)
        receiver.let_go()
        await until(lambda: world.raw.zcard(world.keys[0].due) == 20)
        delivery = site.shards[0].delivery
        assert delivery is not None
        await until(lambda: len(delivery.room.out_of_turn) >= 10)
        world.put(msgspec.structs.replace(agent, endpoint=None))
        receiver.script = None
        tried = receiver.times
        world.put(agent)
        await world.until_ended(ids, timeout_s=30)
        last = {got.id: got.attempt for got in receiver.got}
        assert all(last[one] >= tried[one] for one in ids)
        assert all(ends == [(Status.DELIVERED, None)] for ends in world.ends().values())
        # Redis has settled them; the owner hears of it with the reply, a moment later.
        await until(lambda: not delivery.room.out_of_turn)
        await world.until_clean()


async def test_a_retry_that_is_due_while_it_is_being_expired_keeps_its_count_until_it_has(streams_url):
    """Whoever owns the shard next, should this one die in between, must not begin to count anew."""
    async with World(streams_url, scale=1) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver)
        receiver.script = lambda _: 500
        site = await world.site()
        [sent] = await world.send(message(agent, expires_at=datetime.now(UTC) + timedelta(hours=1)))
        due = world.keys[0].due
        await until(lambda: world.raw.zcard(due) == 1)
        delivery = site.shards[0].delivery
        [member] = world.raw.zrange(due, 0, -1)
        place = member.decode().rpartition("|")[0]
        delivery.room.expiring.add(place)
        world.raw.zadd(due, {member: 1})
        owner, now_ms = site.leases[1].value, int(datetime.now(UTC).timestamp() * 1000)
        assert await delivery.collector.take_due(owner, now_ms=now_ms) == ([], [])
        assert world.raw.zrange(due, 0, -1) == [member]
        delivery.room.expiring.discard(place)
        delivery.collector.due_by(0)
        await until(lambda: len(receiver.got) >= 2)
        assert receiver.got[1].attempt == 2
        assert receiver.ids == [sent, sent]
