"""The native inbox: a consumer group on the mailboxes of one agent."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import pytest
import redis
from cluster import client_of, close
from msgspec import Raw

from broker.client import native
from broker.client.native import NativeInbox, NativeMessage
from broker.streams.keys import DEPLOYMENT, NATIVE_GROUP, Keys
from broker.streams.link import Link
from broker.streams.mailbox import Mailboxes
from schema.codec import decode_events, encode
from schema.errors import HasEndpoint, Rejected, Unavailable
from schema.ids import new_id, shard_of
from schema.ledger import Event
from schema.message import Envelope, Lane, Status, lane_of

SHARDS = 2
AGENT = new_id()
KEYS = Keys(shard_of(AGENT, SHARDS))


@pytest.fixture
def raw(streams_url: str) -> Iterator[redis.Redis]:
    client = client_of(streams_url)
    client.hset(DEPLOYMENT, "shards", SHARDS)
    yield client
    close(client)


def put(raw: redis.Redis, *, priority: int = 5) -> str:
    envelope = Envelope(id=new_id(), to_agent_id=AGENT, priority=priority, content=Raw(b'{"n":1}'))
    raw.xadd(KEYS.mailbox(AGENT, lane_of(priority)), {"m": encode(envelope)})
    return envelope.id


def events(raw: redis.Redis) -> list[Event]:
    return [event for _, fields in raw.xrange(KEYS.ledger) for event in decode_events(fields[b"b"])]


async def take(messages: AsyncIterator[NativeMessage], count: int) -> list[NativeMessage]:
    async with asyncio.timeout(15):
        return [await anext(messages) for _ in range(count)]


async def test_messages_come_urgent_ones_first_also_those_that_waited_before_it_was_opened(
    streams_url: str, raw: redis.Redis
) -> None:
    low, normal, high = [put(raw, priority=priority) for priority in (9, 5, 1)]
    async with await NativeInbox.open(streams_url, AGENT) as inbox:
        messages = aiter(inbox)
        found = await take(messages, 3)
        assert [one.id for one in found] == [high, normal, low]
        assert found[0].content == {"n": 1}
        later = put(raw)
        assert [one.id for one in await take(messages, 1)] == [later]
    assert raw.zscore(KEYS.presence, AGENT) is not None


async def test_what_is_acknowledged_never_comes_again_and_what_is_not_does(
    streams_url: str, raw: redis.Redis
) -> None:
    first, second = put(raw), put(raw)
    async with await NativeInbox.open(streams_url, AGENT, consumer="one") as inbox:
        done, _ = await take(aiter(inbox), 2)
        assert await inbox.acknowledge(done, Status.PROCESSED, result={"ok": True})
        assert not await inbox.acknowledge(done)
    async with await NativeInbox.open(streams_url, AGENT, consumer="one") as inbox:
        messages = aiter(inbox)
        [again] = await take(messages, 1)
        third = put(raw)
        [new] = await take(messages, 1)
        await inbox.acknowledge(again)
        await inbox.acknowledge(new)
    assert (again.id, new.id) == (second, third)
    assert [(one.id, one.status) for one in events(raw)] == [
        (first, Status.PROCESSED),
        (second, Status.DELIVERED),
        (third, Status.DELIVERED),
    ]


async def test_what_a_dead_consumer_held_is_claimed_by_a_live_one(
    streams_url: str, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "CLAIM_AFTER_MS", 50)
    monkeypatch.setattr(native, "READ_ENTRIES_MAX", 4)
    sent = [put(raw) for _ in range(11)]
    async with await NativeInbox.open(streams_url, AGENT, consumer="dead") as inbox:
        await take(aiter(inbox), 11)
    await asyncio.sleep(0.1)  # what is waited for is Redis' own idea of how long an entry was idle
    async with await NativeInbox.open(streams_url, AGENT, consumer="alive") as inbox:
        assert [one.id for one in await take(aiter(inbox), 11)] == sent


async def test_what_a_live_consumer_works_on_is_not_claimed(
    streams_url: str, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "BEAT_S", 0.02)
    put(raw)
    async with await NativeInbox.open(streams_url, AGENT, consumer="busy") as inbox:
        await take(aiter(inbox), 1)
        raw.xclaim(KEYS.mailbox(AGENT, Lane.NORMAL), NATIVE_GROUP, "busy", 0, _pending(raw), idle=1_000_000)
        async with asyncio.timeout(10):
            while _pending(raw, idle_ms=500_000):  # noqa: ASYNC110  # nothing to wait on
                await asyncio.sleep(0.01)


def _pending(raw: redis.Redis, *, idle_ms: int = 0) -> list[bytes]:
    box = KEYS.mailbox(AGENT, Lane.NORMAL)
    found = raw.xpending_range(box, NATIVE_GROUP, "-", "+", 10, idle=idle_ms)
    return [one["message_id"] for one in found]


async def test_an_entry_acknowledged_by_another_way_is_not_pending_any_more(
    streams_url: str, raw: redis.Redis
) -> None:
    put(raw)
    async with await NativeInbox.open(streams_url, AGENT, consumer="one") as inbox:
        [one] = await take(aiter(inbox), 1)
    raw.xdel(KEYS.mailbox(AGENT, one.lane), one.entry)
    async with await NativeInbox.open(streams_url, AGENT, consumer="one") as inbox:
        messages = aiter(inbox)
        later = put(raw)
        assert [one.id for one in await take(messages, 1)] == [later]
    assert len(_pending(raw)) == 1


async def test_a_group_that_went_with_its_mailbox_is_made_again(streams_url: str, raw: redis.Redis) -> None:
    async with await NativeInbox.open(streams_url, AGENT) as inbox:
        messages = aiter(inbox)
        first = put(raw)
        [one] = await take(messages, 1)
        await inbox.acknowledge(one)
        raw.delete(KEYS.mailbox(AGENT, Lane.NORMAL))
        second = put(raw)
        assert [one.id for one in await take(messages, 1)] == [second]
        assert one.id == first


async def test_a_lost_connection_costs_nothing_and_repeats_nothing_in_hand(
    streams_url: str, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "RECONNECT_S", 0.01)
    put(raw)
    async with await NativeInbox.open(streams_url, AGENT) as inbox:
        messages = aiter(inbox)
        await take(messages, 1)
        raw.client_kill_filter(_type="normal", skipme=True)
        later = put(raw)
        assert [one.id for one in await take(messages, 1)] == [later]


async def test_reading_waits_while_too_much_is_in_hand(
    streams_url: str, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native, "HELD_MAX", 2)
    monkeypatch.setattr(native, "READ_ENTRIES_MAX", 1)
    sent = [put(raw) for _ in range(3)]
    async with await NativeInbox.open(streams_url, AGENT) as inbox:
        messages = aiter(inbox)
        one, _ = await take(messages, 2)
        third = asyncio.ensure_future(anext(messages))
        await asyncio.sleep(0.05)
        assert raw.xpending(KEYS.mailbox(AGENT, Lane.NORMAL), NATIVE_GROUP)["pending"] == 2
        await inbox.acknowledge(one)
        async with asyncio.timeout(10):
            assert (await third).id == sent[2]


async def test_reading_ends_when_the_agent_is_given_an_endpoint(streams_url: str, raw: redis.Redis) -> None:
    link = Link(streams_url, name="test")
    async with await NativeInbox.open(streams_url, AGENT) as inbox:
        messages = aiter(inbox)
        put(raw)
        await take(messages, 1)
        assert await Mailboxes(link, shards=SHARDS).activate(AGENT) == 1
        with pytest.raises(HasEndpoint):
            await take(messages, 1)
    await link.close()


async def test_closing_ends_the_iteration(streams_url: str, raw: redis.Redis) -> None:
    inbox = await NativeInbox.open(streams_url, AGENT)
    messages = aiter(inbox)
    put(raw)
    await take(messages, 1)
    waiting = asyncio.ensure_future(anext(messages, None))
    await asyncio.sleep(0)
    await inbox.close()
    async with asyncio.timeout(10):
        assert await waiting is None


async def test_it_opens_only_for_an_agent_of_a_deployment(streams_url: str, raw: redis.Redis) -> None:
    with pytest.raises(Rejected):
        await NativeInbox.open(streams_url, "a name")
    raw.delete(DEPLOYMENT)
    with pytest.raises(Unavailable):
        await NativeInbox.open(streams_url, AGENT)
