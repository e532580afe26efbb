"""Connections to the embedded servers, and real keepers."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from keeper_rig import StartKeeper, starting_keepers

from broker.streams.connection import Connection, open_connection


@pytest.fixture
async def connection(streams_url: str) -> AsyncIterator[Connection]:
    """A connection to the embedded Valkey, emptied."""
    async with await open_connection(streams_url, name="test") as opened:
        yield opened


@pytest.fixture
async def any_connection(any_streams_url: str) -> AsyncIterator[Connection]:
    """A connection to each Redis there is, emptied."""
    async with await open_connection(any_streams_url, name="test") as opened:
        yield opened


@pytest.fixture
def start_keeper(tmp_path: Path) -> Iterator[StartKeeper]:
    """Start keepers as processes of their own."""
    with starting_keepers(tmp_path) as start:
        yield start
