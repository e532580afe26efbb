"""Publishing: what shares an entry, where messages go, what a lost reply costs."""

import asyncio
from datetime import UTC, datetime

import pytest
from cluster import one_server
from msgspec import Raw
from redis_proxy import proxied
from streams_rig import until

from broker.client.streams import StreamPublisher, message
from broker.streams import ingress
from broker.streams.deployment import agree_on_shards
from broker.streams.ingress import Publisher
from broker.streams.keys import Keys
from broker.streams.lanes import IngressEntry, LaneReader, joined
from schema.codec import decode_envelope, encode
from schema.errors import Conflict, Rejected, StreamsFull, StreamsUnavailable, Unavailable
from schema.ids import new_id, shard_of
from schema.limits import MESSAGE_BYTES_MAX, PUBLISH_MESSAGES_PER_ENTRY_MAX
from schema.message import LANES, Envelope, Lane, lane_of

SHARDS = 2


def envelope(*, to: str | None = "somebody", priority: int = 5, size_bytes: int = 0) -> Envelope:
    content = Raw(b'{"x":"' + b"y" * size_bytes + b'"}')
    return Envelope(
        id=new_id(), to_agent_id=to, priority=priority, content=content, created_at=datetime.now(UTC)
    )


@pytest.fixture
async def publisher(any_streams_url):
    opened = Publisher(any_streams_url, shards=SHARDS)
    yield opened
    await opened.close()


def entries(raw, shard: int, lane: Lane) -> list[dict[bytes, bytes]]:
    return [fields for _, fields in raw.xrange(Keys(shard).ingress[lane])]


async def ids_in(url: str, *, shards: int = SHARDS) -> list[str]:
    """Return the ids of everything published, as a router reads it."""
    from broker.streams.connection import open_connection

    found = []
    async with await open_connection(url, name="reader") as connection:
        for shard in range(shards):
            reader = LaneReader(connection, Keys(shard))
            for lane in LANES:
                if await connection.send("EXISTS", Keys(shard).ingress[lane]):
                    while await connection.send(
                        "XRANGE", Keys(shard).ingress[lane], f"({reader._cursors[lane]}", "+"
                    ):
                        for entry in await reader.read([lane]):
                            found += [decode_envelope(one).id for one in entry.messages]
    return found


async def test_messages_of_one_turn_share_an_entry(publisher, raw):
    sent = [envelope() for _ in range(10)]
    await asyncio.gather(*(publisher.publish(one) for one in sent))
    assert raw.xlen(Keys(shard_of("somebody", SHARDS)).ingress[Lane.NORMAL]) == 1
    assert await ids_in(publisher._link._url) == [one.id for one in sent]


async def test_messages_of_an_entry_share_a_field_and_are_read_from_a_field_each_as_well(publisher, raw):
    sent = [envelope() for _ in range(3)]
    await publisher.publish_many(sent)
    [fields] = entries(raw, shard_of("somebody", SHARDS), Lane.NORMAL)
    written = [encode(one) for one in sent]
    assert fields == {b"m": joined(written)}
    mixed = [b"m", joined(written[:2]), b"w", b"gateway", b"m", written[2]]
    read = IngressEntry(Lane.NORMAL, "1-0", mixed)
    assert (read.messages, read.waiter) == (written, "gateway")


@pytest.mark.parametrize("where", ["in a string", "in a name", "between", "unknown"])
def test_what_stands_between_messages_is_in_none(where):
    """Or whoever writes a message could write a second one into it, past every check."""
    said = {
        "in a string": b'"content":{"a":"x\x1ey"}',
        "in a name": b'"content":{"x\x1ey":1}',
        "between": b'"content":{"a":1\x1e}',
        "unknown": b'"content":{},"else":"x\x1ey"',
    }
    text = encode(envelope())[:-1] + b"," + said[where] + b"}"
    decode_envelope(text.replace(b"\x1e", b""))
    with pytest.raises(Rejected):
        decode_envelope(text)


async def test_an_entry_carries_a_bounded_number_of_messages(publisher, raw):
    sent = [envelope() for _ in range(PUBLISH_MESSAGES_PER_ENTRY_MAX * 2 + 1)]
    await publisher.publish_many(sent)
    assert raw.xlen(Keys(shard_of("somebody", SHARDS)).ingress[Lane.NORMAL]) == 3
    assert sorted(await ids_in(publisher._link._url)) == sorted(one.id for one in sent)


@pytest.mark.parametrize("together", [True, False], ids=["publish_many", "publish at once"])
async def test_an_entry_carries_a_bounded_number_of_bytes(publisher, raw, together):
    """A reader asks for a number of entries: what one may weigh bounds its memory."""
    sent = [envelope(size_bytes=100_000) for _ in range(7)]
    if together:
        await publisher.publish_many(sent)
    else:
        await asyncio.gather(*(publisher.publish(one) for one in sent))
    lane = Keys(shard_of("somebody", SHARDS)).ingress[Lane.NORMAL]
    sizes = [
        sum(map(len, raw.execute_command("XRANGE", lane, entry, entry)[0][1].values()))
        for entry, _ in raw.xrange(lane)
    ]
    assert raw.xlen(lane) == 4
    assert max(sizes) <= MESSAGE_BYTES_MAX
    assert sorted(await ids_in(publisher._link._url)) == sorted(one.id for one in sent)


async def test_messages_are_spread_over_lanes_and_shards_by_priority_and_recipient(publisher, raw):
    sent = [envelope(to=f"agent-{number}", priority=1 + number % 10) for number in range(100)]
    sent += [envelope(to=None, priority=1 + number % 10) for number in range(100)]
    await publisher.publish_many(sent)
    places = {one.id: (shard_of(one.to_agent_id or one.id, SHARDS), lane_of(one.priority)) for one in sent}
    for shard in range(SHARDS):
        for lane in LANES:
            expected = {name for name, place in places.items() if place == (shard, lane)}
            assert expected
            stored = raw.xrange(Keys(shard).ingress[lane])
            assert (
                sum(
                    len(raw.execute_command("XRANGE", Keys(shard).ingress[lane], entry, entry))
                    for entry, _ in stored
                )
                >= 1
            )
    assert sorted(await ids_in(publisher._link._url)) == sorted(places)


async def test_messages_of_different_waiters_do_not_share_an_entry(publisher, raw):
    await asyncio.gather(
        publisher.publish(envelope(), waiter="one"),
        publisher.publish(envelope(), waiter="one"),
        publisher.publish(envelope(), waiter="two"),
        publisher.publish(envelope()),
    )
    stored = entries(raw, shard_of("somebody", SHARDS), Lane.NORMAL)
    assert [fields.get(b"w") for fields in stored] == [b"one", b"two", None]


async def test_a_publish_whose_reply_was_lost_is_repeated_and_only_stored_twice(
    any_streams_url, raw, monkeypatch
):
    monkeypatch.setattr(ingress, "BACKOFF_S", 0.01)
    async with proxied(any_streams_url) as proxy:
        publisher = Publisher(proxy.url, shards=1)
        await publisher.publish(envelope())
        proxy.hold_replies()
        lost = envelope()
        publishing = asyncio.ensure_future(publisher.publish(lost))
        await until(lambda: lost.id.encode() in proxy.asked)
        await until(lambda: raw.xlen(Keys(0).ingress[Lane.NORMAL]) == 2)
        proxy.cut()
        proxy.let_go()
        await publishing
        await publisher.close()
    assert (await ids_in(any_streams_url, shards=1)).count(lost.id) == 2


async def test_a_server_that_stays_away_is_given_up(unused_tcp_port, monkeypatch):
    monkeypatch.setattr(ingress, "BACKOFF_S", 0.001)
    publisher = Publisher(f"redis://127.0.0.1:{unused_tcp_port}/0", shards=1)
    with pytest.raises(StreamsUnavailable):
        await publisher.publish(envelope())
    with pytest.raises(StreamsUnavailable):
        await publisher.publish_many([envelope(priority=priority) for priority in (1, 5, 9)])
    await publisher.close()


@one_server
async def test_a_full_redis_is_told_at_once(publisher, raw):
    await publisher.publish(envelope())
    before = raw.config_get("maxmemory")["maxmemory"]
    raw.set("ballast", b"x" * 4_000_000)
    raw.config_set("maxmemory", 2_000_000)
    try:
        with pytest.raises(StreamsFull):
            await publisher.publish(envelope())
    finally:
        raw.config_set("maxmemory", before)
    raw.delete("ballast")
    await publisher.publish(envelope())
    assert len(await ids_in(publisher._link._url)) == 2


@pytest.mark.parametrize("is_open", [False, True], ids=["opening", "open"])
async def test_nobody_waits_for_ever_after_an_error_nobody_thought_of(publisher, monkeypatch, is_open):
    async def broken() -> None:
        raise ZeroDivisionError

    def broken_call(*_: object) -> None:
        raise ZeroDivisionError

    if is_open:
        monkeypatch.setattr(await publisher._link.get(), "call", broken_call)
    else:
        monkeypatch.setattr(publisher._link, "get", broken)
    async with asyncio.timeout(5):
        results = await asyncio.gather(
            *(publisher.publish(envelope()) for _ in range(3)), return_exceptions=True
        )
    assert all(isinstance(result, ZeroDivisionError) for result in results)


async def test_a_cancelled_caller_takes_nobody_with_it(publisher):
    given_up = asyncio.ensure_future(publisher.publish(envelope()))
    kept = asyncio.ensure_future(publisher.publish(envelope()))
    await asyncio.sleep(0)
    given_up.cancel()
    await kept
    assert given_up.cancelled()


async def test_a_closed_publisher_opens_no_connection_again(any_streams_url):
    async with proxied(any_streams_url) as proxy:
        publisher = Publisher(proxy.url, shards=1)
        await publisher.publish(envelope())
        proxy.hold_replies()
        waiting = asyncio.ensure_future(publisher.publish(envelope()))
        await until(lambda: proxy.asked.count(b"XADD") == 2)
        await publisher.close()
        proxy.let_go()
        with pytest.raises(StreamsUnavailable):
            await waiting
        assert proxy.accepted == 1


async def test_thousands_at_once_arrive_in_the_order_of_their_lane(publisher):
    sent = [envelope() for _ in range(3_000)]
    await publisher._link.get()  # those that wait for it to open may overtake one another
    await asyncio.gather(*(publisher.publish(one) for one in sent))
    assert await ids_in(publisher._link._url) == [one.id for one in sent]


# --- what agents import ---------------------------------------------------------------------------------


async def test_a_native_publisher_learns_the_shards_from_the_deployment(any_streams_url, connection, raw):
    with pytest.raises(Unavailable):
        await StreamPublisher.open(any_streams_url)
    await agree_on_shards(connection, 2)
    await agree_on_shards(connection, 2)
    with pytest.raises(Conflict):
        await agree_on_shards(connection, 3)
    async with await StreamPublisher.open(any_streams_url) as publisher:
        single = await publisher.publish(message({"a": 1}, to="somebody", sender="me", priority=1))
        many = await publisher.publish_many([message({"a": 1}, requirements=["x"]) for _ in range(3)])
    assert sorted(await ids_in(any_streams_url)) == sorted([single, *many])
