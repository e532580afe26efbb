"""Heartbeats that come together are noted together: each caller hears of its own, all hear of a failure."""

import asyncio

import pytest

from broker.streams.beats import Beats
from broker.streams.connection import open_connection
from broker.streams.keys import Keys
from broker.streams.link import Link
from broker.streams.presence import Presence
from schema.errors import StreamsUnavailable
from schema.ids import new_id


async def test_every_caller_hears_when_its_agent_was_heard_of_before_and_now(streams_url):
    link = Link(streams_url, name="test")
    presence = Presence(link, shards=2)
    beats, agents = Beats(presence, shards=2), [new_id() for _ in range(20)]
    began_ms = await presence.now_ms()
    first = await asyncio.gather(*map(beats.beat, agents))
    assert [beat.before_ms for beat in first] == [0] * len(agents)
    assert all(beat.at_ms >= began_ms for beat in first)
    assert await presence.last(agents) == {
        agent: beat.at_ms for agent, beat in zip(agents, first, strict=True)
    }
    again = await asyncio.gather(*map(beats.beat, agents))
    assert [beat.before_ms for beat in again] == [beat.at_ms for beat in first]
    await link.close()


async def test_beats_that_come_together_take_two_commands_and_one_agent_counts_once(streams_url):
    link = Link(streams_url, name="test")
    beats, agents = Beats(Presence(link, shards=1), shards=1), [new_id() for _ in range(30)]
    await beats.beat(agents[0])
    # Of a cluster the node that has the presence of the shard: it counts by itself.
    async with await open_connection(streams_url, name="test", key=Keys(0).presence) as other:
        await other.send("CONFIG", "RESETSTAT")
        await asyncio.gather(*(beats.beat(agent) for agent in agents * 2))
        told = (await other.send("INFO", "commandstats")).decode()
    assert "cmdstat_zadd:calls=1," in told
    assert "cmdstat_zmscore:calls=1," in told
    await link.close()


async def test_a_caller_that_goes_away_takes_no_other_along(streams_url):
    link = Link(streams_url, name="test")
    beats, agent = Beats(Presence(link, shards=1), shards=1), new_id()
    gone, stays = asyncio.ensure_future(beats.beat(agent)), asyncio.ensure_future(beats.beat(agent))
    await asyncio.sleep(0)
    gone.cancel()
    assert (await stays).at_ms > 0
    await link.close()


async def test_all_callers_of_a_batch_hear_that_redis_is_away():
    link = Link("redis://127.0.0.1:1/0", name="test")
    beats = Beats(Presence(link, shards=1), shards=1)
    results = await asyncio.gather(*(beats.beat(new_id()) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(result, StreamsUnavailable) for result in results)
    with pytest.raises(StreamsUnavailable):
        await beats.beat(new_id())
    await link.close()


async def test_nobody_waits_for_ever_after_an_error_nobody_thought_of(streams_url, monkeypatch):
    link = Link(streams_url, name="test")
    presence = Presence(link, shards=1)

    async def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(presence, "renew", broken)
    beats = Beats(presence, shards=1)
    async with asyncio.timeout(5):
        results = await asyncio.gather(*(beats.beat(new_id()) for _ in range(3)), return_exceptions=True)
    assert all(isinstance(result, ZeroDivisionError) for result in results)
    await link.close()
