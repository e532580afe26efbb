"""What the fixtures of `tests/conftest.py` promise to the other tests."""

import asyncio

import asyncpg
import pytest
import redis
import redis.asyncio
import uvloop
from telling_loop import TellingLoop

from broker.streams.connection import open_connection


def test_streams_are_empty_for_every_test_1(any_streams_url: str) -> None:
    _check_empty_then_fill(any_streams_url)


def test_streams_are_empty_for_every_test_2(any_streams_url: str) -> None:
    _check_empty_then_fill(any_streams_url)


def _check_empty_then_fill(url: str) -> None:
    client = redis.Redis.from_url(url)
    assert client.dbsize() == 0
    client.set("left", "behind")
    client.close()


async def test_a_database_is_migrated_and_fresh_1(any_database_url: str) -> None:
    await _check_migrated_then_fill(any_database_url)


async def test_a_database_is_migrated_and_fresh_2(any_database_url: str) -> None:
    await _check_migrated_then_fill(any_database_url)


async def _check_migrated_then_fill(url: str) -> None:
    connection = await asyncpg.connect(url)
    assert await connection.fetchval("SELECT to_regclass('agent_messages') IS NOT NULL")
    await connection.execute("CREATE TABLE left_behind (id int)")
    await connection.close()


async def test_async_tests_run_on_uvloop() -> None:
    assert isinstance(asyncio.get_running_loop(), uvloop.Loop)


def test_a_connection_left_open_is_told_and_its_loop_ends(streams_url: str) -> None:
    """As an error, like any warning; the loop of a test that failed must not wait for it for ever."""
    loop = TellingLoop()
    connection = loop.run_until_complete(open_connection(streams_url, name="left"))
    with pytest.raises(ResourceWarning, match="unclosed resource"):
        loop.close()
    assert loop.is_closed()
    assert connection is not None
