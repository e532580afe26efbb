"""The acknowledge, discard and activate scripts: what an agent that pulls changes, by whatever way."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from msgspec import Raw
from streams_rig import until

from broker.core.fold import fold
from broker.streams.acknowledgement import Acknowledged, Acknowledger
from broker.streams.keys import NATIVE_GROUP, Keys
from broker.streams.link import Link
from broker.streams.mailbox import Mailboxes
from broker.streams.notifications import Notices, hear_receipts
from schema.codec import decode_events, encode
from schema.ids import new_id
from schema.ledger import Event, EventKind, Receipt
from schema.message import LANES, Envelope, Lane, Status

AGENT = new_id()
AT_MS = 1_800_000_000_123


@pytest.fixture
async def link(any_streams_url: str) -> AsyncIterator[Link]:
    link = Link(any_streams_url, name="test")
    yield link
    await link.close()


@pytest.fixture
def acknowledger(link: Link) -> Acknowledger:
    async def now_ms() -> int:
        return AT_MS

    return Acknowledger(link, shards=1, now_ms=now_ms)


def put(raw, *, lane: Lane = Lane.NORMAL, waiter: str | None = None, message_id: str | None = None):
    """Put a message into the mailbox as the router does; return how to acknowledge it."""
    envelope = Envelope(id=message_id or new_id(), to_agent_id=AGENT, content=Raw(b'{"text":"}]\\u007d"}'))
    fields = {"m": encode(envelope)} | ({} if waiter is None else {"w": waiter})
    entry = raw.xadd(Keys(0).mailbox(AGENT, lane), fields).decode()
    return Acknowledged(lane, entry, envelope.id)


def box(lane: Lane = Lane.NORMAL) -> str:
    return Keys(0).mailbox(AGENT, lane)


def events(raw) -> list[Event]:
    return [event for _, fields in raw.xrange(Keys(0).ledger) for event in decode_events(fields[b"b"])]


async def test_an_acknowledged_message_leaves_and_the_ledger_tells_how_and_carries_it_whole(
    acknowledger, raw, keys
):
    high, low, stays = put(raw, lane=Lane.HIGH), put(raw, lane=Lane.LOW), put(raw)
    raw.zadd(keys.expiry, {f"{box(Lane.HIGH)}|{high.entry}": 5, f"{box()}|{stays.entry}": 6})
    done = [
        Acknowledged(high.lane, high.entry, high.message_id, Status.PROCESSED, result=Raw(b'{"n":[1]}')),
        Acknowledged(low.lane, low.entry, low.message_id, Status.FAILED, reason="no such car"),
    ]
    assert await acknowledger.acknowledge(AGENT, done) == [True, True]
    one, two = events(raw)
    assert raw.xlen(keys.ledger) == 1
    assert (one.kind, one.id, one.status, one.at_ms) == (
        EventKind.SETTLED,
        high.message_id,
        Status.PROCESSED,
        AT_MS,
    )
    assert (two.status, two.reason, two.to) == (Status.FAILED, "no such car", AGENT)
    rows = {row.id: row for row in fold([one, two]).messages}
    assert bytes(rows[high.message_id].result or b"") == b'{"n":[1]}'
    assert rows[high.message_id].processed_ms == AT_MS
    assert rows[high.message_id].message is not None
    assert raw.zrange(keys.expiry, 0, -1) == [f"{box()}|{stays.entry}".encode()]
    assert raw.exists(box(Lane.HIGH), box(Lane.LOW)) == 0
    assert raw.xlen(box()) == 1


async def test_acknowledging_twice_ends_a_message_once(acknowledger, raw):
    one = put(raw)
    assert await acknowledger.acknowledge(AGENT, [one, one]) == [True, False]
    assert await acknowledger.acknowledge(AGENT, [one]) == [False]
    assert [event.id for event in events(raw)] == [one.message_id]


async def test_an_entry_id_given_again_to_another_message_is_not_taken_for_the_first(acknowledger, raw):
    old = put(raw)
    raw.delete(box())
    new = Envelope(id=new_id(), to_agent_id=AGENT)
    raw.xadd(box(), {"m": encode(new)}, id=old.entry)
    assert await acknowledger.acknowledge(AGENT, [old]) == [False]
    assert raw.xlen(box()) == 1
    assert events(raw) == []


async def test_an_emptied_mailbox_stays_for_its_native_group_and_for_its_delivery_owner(
    acknowledger, raw, keys
):
    grouped, active, plain = put(raw, lane=Lane.HIGH), put(raw), put(raw, lane=Lane.LOW)
    raw.xgroup_create(box(Lane.HIGH), NATIVE_GROUP, id="0")
    raw.zadd(keys.active, {box(): 1})
    await acknowledger.acknowledge(AGENT, [grouped, active, plain])
    assert raw.exists(box(Lane.HIGH)) == 1
    assert raw.exists(box()) == 1
    assert raw.exists(box(Lane.LOW)) == 0


async def test_what_a_native_consumer_has_read_is_pending_no_more_once_acknowledged_or_discarded(
    acknowledger, link, raw
):
    one, other = put(raw), put(raw)
    raw.xgroup_create(box(), NATIVE_GROUP, id="0")
    raw.xreadgroup(NATIVE_GROUP, "c", {box(): ">"})
    assert raw.xpending(box(), NATIVE_GROUP)["pending"] == 2
    await acknowledger.acknowledge(AGENT, [one])
    assert raw.xpending(box(), NATIVE_GROUP)["pending"] == 1
    assert await Mailboxes(link, shards=1).discard(AGENT, other.lane, other.entry)
    assert raw.xpending(box(), NATIVE_GROUP)["pending"] == 0


async def test_acknowledging_works_at_the_memory_limit(acknowledger, raw, keys):
    one, other = put(raw), put(raw)
    raw.xgroup_create(box(), NATIVE_GROUP, id="0")
    before = raw.config_get("maxmemory")["maxmemory"]
    raw.config_set("maxmemory", 1)
    try:
        assert await acknowledger.acknowledge(AGENT, [one, other]) == [True, True]
    finally:
        raw.config_set("maxmemory", before)
    assert len(events(raw)) == 2


async def test_more_than_one_call_holds_are_acknowledged_in_several(acknowledger, raw):
    done = [put(raw) for _ in range(300)]
    assert await acknowledger.acknowledge(AGENT, done) == [True] * 300
    assert {event.id for event in events(raw)} == {one.message_id for one in done}


async def test_the_gateway_that_waits_is_told_how_far_it_got(acknowledger, any_streams_url, raw):
    told: list[Receipt] = []
    notices = Notices(any_streams_url)
    hear_receipts(notices, gateway_id="gw", on_receipts=told.extend)
    task = asyncio.ensure_future(notices.run())
    async with asyncio.timeout(10):
        await notices.listening.wait()
    one, other, unwaited = put(raw, waiter="gw"), put(raw, waiter="gw"), put(raw)
    done = [one, Acknowledged(other.lane, other.entry, other.message_id, Status.FAILED), unwaited]
    await acknowledger.acknowledge(AGENT, done)
    await acknowledger.acknowledge(AGENT, done)
    await until(lambda: len(told) == 2)
    assert {(receipt.id, receipt.rung) for receipt in told} == {
        (one.message_id, "delivered"),
        (other.message_id, "ended"),
    }
    task.cancel()
    await asyncio.wait([task])


async def test_mailboxes_are_handed_over_with_what_a_native_consumer_has_not_acknowledged(link, raw, keys):
    put(raw)
    put(raw, lane=Lane.LOW)
    raw.xgroup_create(box(), NATIVE_GROUP, id="0")
    raw.xreadgroup(NATIVE_GROUP, "c", {box(): ">"})
    mailboxes = Mailboxes(link, shards=1)
    assert not await mailboxes.is_active(AGENT)
    before = raw.config_get("maxmemory")["maxmemory"]
    raw.config_set("maxmemory", 1)
    try:
        assert await mailboxes.activate(AGENT) == 2
    finally:
        raw.config_set("maxmemory", before)
    assert await mailboxes.is_active(AGENT)
    since = raw.zscore(keys.active, box())
    assert await mailboxes.activate(AGENT) == 2
    assert raw.zscore(keys.active, box()) == since
    assert {member.decode() for member in raw.zrange(keys.active, 0, -1)} == {box(), box(Lane.LOW)}
    assert raw.xinfo_groups(box()) == []
    assert raw.xlen(box()) == 1


async def test_what_lies_beyond_cursors_is_found_for_many_agents_at_once(link, raw):
    mailboxes = Mailboxes(link, shards=1)
    start = dict.fromkeys(LANES, "0-0")
    first = put(raw)
    asked = [(new_id(), start) for _ in range(250)] + [(AGENT, start)]
    assert await mailboxes.find_beyond(asked) == {AGENT}
    assert await mailboxes.find_beyond([(AGENT, start | {Lane.NORMAL: first.entry})]) == set()
    [entry] = await mailboxes.read(AGENT, start, count=5)
    assert (entry.lane, entry.entry) == (Lane.NORMAL, first.entry)
