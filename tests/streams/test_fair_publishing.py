"""Who publishes more than its share goes through the lowest lane, and nobody else does."""

import pytest
from cluster import async_client_of
from msgspec import Raw

from broker.client.streams import StreamPublisher, message
from broker.streams.connection import open_connection
from broker.streams.deployment import agree_on_shards
from broker.streams.ingress import Publisher
from broker.streams.keys import Keys
from broker.streams.lanes import parted
from schema.errors import Overloaded
from schema.ids import new_id
from schema.message import Envelope, Lane


def said(sender: str | None) -> Envelope:
    return Envelope(id=new_id(), from_agent_id=sender, to_agent_id="somebody", content=Raw(b"{}"))


async def messages_in(url: str, lane: Lane) -> int:
    async with await open_connection(url, name="test") as connection:
        entries = await connection.send("XRANGE", Keys(0).ingress[lane], "-", "+")
    return sum(len(parted(fields[1])) for _, fields in entries)


@pytest.mark.parametrize(
    ("rate", "sender", "low"), [(10, "flooder", 80), (0, "flooder", 0), (10, None, 0)],
    ids=["over its share", "no share", "no sender"],
)  # fmt: skip
async def test_what_goes_beyond_a_share_goes_through_the_lowest_lane(
    streams_url: str, rate: int, sender: str | None, low: int
) -> None:
    publisher = Publisher(streams_url, shards=1, fair_rate_per_s=rate)
    try:
        await publisher.publish_many([said(sender) for _ in range(100)])
        await publisher.publish(said("quiet"))
    finally:
        await publisher.close()
    assert await messages_in(streams_url, Lane.LOW) == low
    assert await messages_in(streams_url, Lane.NORMAL) == 101 - low


async def test_native_publishers_are_refused_as_well_when_redis_runs_out_of_memory(streams_url: str) -> None:
    async with await open_connection(streams_url, name="test") as connection:
        await agree_on_shards(connection, 1)
    async with async_client_of(streams_url) as redis:
        before = (await redis.config_get("maxmemory"))["maxmemory"]
        async with await StreamPublisher.open(streams_url) as publisher:
            try:
                used = (await redis.info("memory"))["used_memory"]
                await redis.config_set("maxmemory", int(used / 0.75))
                await publisher.publish(message({}, to="somebody"))  # it asks beside the first one
                assert publisher._looking is not None
                await publisher._looking
                with pytest.raises(Overloaded):
                    await publisher.publish(message({}, to="somebody"))
            finally:
                await redis.config_set("maxmemory", before)


def test_a_message_in_a_chain_says_so() -> None:
    first = message({}, to="somebody")
    second = message({}, to="somebody", cause=first)
    third = message({}, to="somebody", cause=second)
    assert (second.root_id, second.hop) == (first.id, 1)
    assert (third.root_id, third.hop) == (first.id, 2)
