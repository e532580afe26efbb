"""The wake, unpark, cut and lease scripts: what moves by the clock, and who may move it."""

import pytest
from streams_rig import OWNER, dump

from broker.streams.scripts import CUT, LEASE, UNPARK, WAKE
from schema.errors import Fenced
from schema.message import LANES, Lane

# --- wake -----------------------------------------------------------------------------------------------


async def wake(connection, keys, *, owner=OWNER, at_most=10):
    names = (keys.owner("keep"), keys.later, keys.later_messages, *keys.ingress.values())
    return await connection.evaluate(WAKE, names, owner, at_most)


async def test_scheduled_messages_wake_in_their_lane_marked_as_passed(connection, keys, raw):
    for number, member in enumerate(("0high", "1normal", "2low", "1gone")):
        raw.zadd(keys.later, {member: number + 1})
        if member != "1gone":
            raw.hset(keys.later_messages, member, f"message {member}")
    raw.zadd(keys.later, {"1future": 9_000_000_000_000})
    raw.hset(keys.later_messages, "1future", "later")
    moved, next_ms, _ = await wake(connection, keys)
    assert (moved, next_ms) == (4, b"9000000000000")
    for lane, member in zip(LANES, ("0high", "1normal", "2low"), strict=True):
        [(_, fields)] = raw.xrange(keys.ingress[lane])
        assert fields == {b"m": f"message {member}".encode(), b"p": b"1"}
    assert raw.hgetall(keys.later_messages) == {b"1future": b"later"}
    assert (await wake(connection, keys))[0] == 0


async def test_waking_goes_in_steps_of_at_most_what_was_asked_for(connection, keys, raw):
    for number in range(5):
        raw.zadd(keys.later, {f"1{number}": number + 1})
        raw.hset(keys.later_messages, f"1{number}", str(number))
    assert [(await wake(connection, keys, at_most=2))[0] for _ in range(4)] == [2, 2, 1, 0]
    assert [fields[b"m"] for _, fields in raw.xrange(keys.ingress[Lane.NORMAL])] == [
        b"0",
        b"1",
        b"2",
        b"3",
        b"4",
    ]


async def test_a_stale_owner_wakes_nothing(connection, keys, raw):
    raw.zadd(keys.later, {"0a": 1})
    raw.hset(keys.later_messages, "0a", "x")
    before = dump(raw)
    with pytest.raises(Fenced):
        await wake(connection, keys, owner="6:tester")
    assert dump(raw) == before


# --- unpark ---------------------------------------------------------------------------------------------


async def unpark(connection, keys, *, owner=OWNER, at_most=10, signature="sig:low"):
    names = (
        keys.owner("route"), keys.parked_stream(signature), keys.ingress[Lane.LOW], keys.parked, keys.expiry,
    )  # fmt: skip
    return await connection.evaluate(UNPARK, names, owner, at_most, signature)


def park(raw, keys, count, signature="sig:low"):
    stream = keys.parked_stream(signature)
    raw.hset(keys.parked, signature, "{}")
    for number in range(count):
        fields = {"m": f"{number}"} | ({"w": "gw"} if number % 2 else {})
        entry = raw.xadd(stream, fields).decode()
        raw.zadd(keys.expiry, {f"{stream}|{entry}": number + 1})


async def test_parked_messages_go_back_oldest_first_marked_as_passed(connection, keys, raw):
    park(raw, keys, 3)
    assert await unpark(connection, keys, at_most=2) == 2
    assert raw.hexists(keys.parked, "sig:low")
    assert raw.zcard(keys.expiry) == 1
    assert await unpark(connection, keys, at_most=2) == 1
    assert [fields for _, fields in raw.xrange(keys.ingress[Lane.LOW])] == [
        {b"m": b"0", b"p": b"1"},
        {b"m": b"1", b"w": b"gw", b"p": b"1"},
        {b"m": b"2", b"p": b"1"},
    ]
    assert not raw.exists(keys.parked, keys.parked_stream("sig:low"), keys.expiry)
    assert await unpark(connection, keys) == 0


async def test_a_stale_owner_unparks_nothing(connection, keys, raw):
    park(raw, keys, 1)
    before = dump(raw)
    with pytest.raises(Fenced):
        await unpark(connection, keys, owner="8:tester")
    assert dump(raw) == before


# --- cut ------------------------------------------------------------------------------------------------


async def test_cutting_is_exact_and_fenced(connection, keys, raw):
    entries = [raw.xadd(keys.ledger, {"b": "[]"}).decode() for _ in range(300)]
    names = (keys.owner("record"), keys.ledger)
    with pytest.raises(Fenced):
        await connection.evaluate(CUT, names, "6:tester", entries[-1])
    assert raw.xlen(keys.ledger) == 300
    assert await connection.evaluate(CUT, names, OWNER, entries[123]) == 123
    assert await connection.evaluate(CUT, names, OWNER, entries[123]) == 0
    assert raw.xrange(keys.ledger, count=1)[0][0].decode() == entries[123]


# --- lease ----------------------------------------------------------------------------------------------


async def test_a_lease_is_taken_by_one_and_its_tokens_only_grow(connection, keys, raw):
    raw.delete(keys.owner("route"))
    names = (keys.owner("route"), keys.fence("route"))
    assert await connection.evaluate(LEASE, names, "take", "one", 10_000) == b"1:one"
    assert await connection.evaluate(LEASE, names, "take", "two", 10_000) is None
    assert await connection.evaluate(LEASE, names, "renew", "1:one", 20_000) == 1
    assert 10_000 < raw.pttl(keys.owner("route")) <= 20_000
    for stale in ("1:two", "2:one", "0:one", ""):
        assert await connection.evaluate(LEASE, names, "renew", stale, 90_000) == 0
        assert await connection.evaluate(LEASE, names, "release", stale, 90_000) == 0
    assert raw.pttl(keys.owner("route")) <= 20_000
    assert await connection.evaluate(LEASE, names, "release", "1:one", 0) == 1
    assert await connection.evaluate(LEASE, names, "release", "1:one", 0) == 0
    assert await connection.evaluate(LEASE, names, "take", "one", 10_000) == b"2:one"
