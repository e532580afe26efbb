"""The choose script: whom a router has chosen, for who comes after it."""

import pytest
from streams_rig import OWNER, dump

from broker.streams.scripts import CHOOSE
from schema.errors import Fenced


async def choose(connection, keys, *choices, owner=OWNER):
    return await connection.evaluate(CHOOSE, (keys.owner("route"), keys.chosen), owner, *choices)


async def test_choices_are_written_down_and_a_later_one_counts(connection, keys, raw):
    await choose(connection, keys, "one", "a", "two", "b")
    await choose(connection, keys, "two", "c")
    assert raw.hgetall(keys.chosen) == {b"one": b"a", b"two": b"c"}


async def test_a_stale_owner_writes_down_nothing(connection, keys, raw):
    """Its word could come when the message has long gone, and would stay for ever."""
    before = dump(raw)
    with pytest.raises(Fenced):
        await choose(connection, keys, "one", "a", owner="6:tester")
    assert dump(raw) == before
