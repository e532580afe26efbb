"""Allowances: so many in a time, whoever counts, and nothing left behind."""

import asyncio

import pytest

from broker.streams.allowances import Allowances
from broker.streams.keys import Keys
from broker.streams.link import Link
from schema.ids import new_id, shard_of

SHARDS = 3
HOUR_MS = 3_600_000


@pytest.fixture
async def link(any_streams_url):
    opened = Link(any_streams_url, name="test")
    yield opened
    await opened.close()


async def test_as_many_as_allowed_pass_and_the_next_is_told_how_long_to_wait(link):
    allowances, to, sender = Allowances(link, shards=SHARDS), new_id(), new_id()
    waits = [await allowances.take("test", to, sender, count=3, per_ms=HOUR_MS) for _ in range(5)]
    assert waits[:3] == [0, 0, 0]
    # One more has come back after a third of the hour; a refusal costs nothing further.
    assert all(HOUR_MS / 3 - 60_000 < wait <= HOUR_MS / 3 for wait in waits[3:])
    assert await allowances.take("test", to, new_id(), count=3, per_ms=HOUR_MS) == 0
    assert await allowances.take("other", to, sender, count=3, per_ms=HOUR_MS) == 0


async def test_what_was_taken_comes_back_and_leaves_nothing_behind(link, raw):
    allowances, to, sender = Allowances(link, shards=SHARDS), new_id(), new_id()
    assert await allowances.take("test", to, sender, count=1, per_ms=60) == 0
    wait_ms = await allowances.take("test", to, sender, count=1, per_ms=60)
    assert 0 <= wait_ms <= 60
    async with asyncio.timeout(10):
        while await allowances.take("test", to, sender, count=1, per_ms=60) != 0:  # noqa: ASYNC110 (in Redis)
            await asyncio.sleep(0.01)
    key = Keys(shard_of(to, SHARDS)).allowance("test", to, sender)
    async with asyncio.timeout(10):
        while raw.exists(key):  # noqa: ASYNC110 (in Redis)
            await asyncio.sleep(0.01)


async def test_two_that_count_at_once_never_let_one_too_many_through(link, any_streams_url):
    second = Link(any_streams_url, name="test-2")
    to, sender = new_id(), new_id()
    takers = [Allowances(link, shards=SHARDS), Allowances(second, shards=SHARDS)]
    waits = await asyncio.gather(
        *(takers[n % 2].take("test", to, sender, count=10, per_ms=HOUR_MS) for n in range(40))
    )
    await second.close()
    assert sum(wait == 0 for wait in waits) == 10
