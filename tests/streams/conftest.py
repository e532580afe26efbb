"""What tests of the streams share: a connection under test, and a plain client that looks on."""

from collections.abc import AsyncIterator, Iterator

import pytest
import redis
from cluster import client_of, close

from broker.streams.connection import Connection, open_connection
from broker.streams.keys import Keys

OWNER = "7:tester"


@pytest.fixture
def raw(any_streams_url: str) -> Iterator[redis.Redis]:
    """A client of another make, to look at what is there and to set the stage."""
    client = client_of(any_streams_url)
    yield client
    close(client)


@pytest.fixture
async def connection(any_streams_url: str) -> AsyncIterator[Connection]:
    async with await open_connection(any_streams_url, name="test") as opened:
        yield opened


@pytest.fixture
def keys(raw: redis.Redis) -> Keys:
    """The keys of shard 0, every trade of which is owned by OWNER."""
    keys = Keys(0)
    for trade in ("route", "deliver", "record", "keep"):
        raw.set(keys.owner(trade), OWNER)
    return keys
