"""The settle, take_due, expire, vacate and discard scripts: what the delivery owner changes."""

import json

import pytest
from streams_rig import OWNER, dump, members, settle

from broker.streams.keys import NATIVE_GROUP
from broker.streams.scripts import DISCARD, EXPIRE, PUT_BACK, TAKE_DUE, VACATE
from broker.streams.settlement import Settlement
from schema.codec import encode
from schema.errors import Fenced
from schema.ledger import Event, EventKind
from schema.message import Status

BOX = "ab:{0}:inbox:agent:normal"
OTHER = "ab:{0}:inbox:other:high"
UNDER_WAY = 9_000_000_000_000_000


def ended(name: str) -> bytes:
    return encode(Event(kind=EventKind.SETTLED, id=name, at_ms=1, status=Status.DELIVERED))


def put(raw, box: str, count: int = 1) -> list[str]:
    return [raw.xadd(box, {"m": "{}"}).decode() for _ in range(count)]


# --- settle ---------------------------------------------------------------------------------------------


async def test_settling_deletes_plans_and_records_together(connection, keys, raw):
    [a, b], [c] = put(raw, BOX, 2), put(raw, OTHER)
    raw.zadd(keys.due, {f"{BOX}|{a}|2": UNDER_WAY, f"{BOX}|x|1": 5})
    raw.zadd(keys.expiry, {f"{BOX}|{a}": 50, f"{OTHER}|{c}": 60})
    deleted = await settle(
        connection,
        keys,
        Settlement(
            finished={BOX: [a], OTHER: [c]},
            events=[ended("a"), ended("c")],
            retries={f"{BOX}|{b}|1": 1_700_000_000_123},
            over=[f"{BOX}|{a}|2"],
            forget=[f"{BOX}|{a}"],
        ),
    )
    assert deleted == 2
    assert [entry.decode() for entry, _ in raw.xrange(BOX)] == [b]
    assert raw.xlen(OTHER) == 0
    assert members(raw.zrange(keys.due, 0, -1, withscores=True)) == {
        f"{BOX}|x|1": 5,
        f"{BOX}|{b}|1": 1_700_000_000_123,
    }
    assert members(raw.zrange(keys.expiry, 0, -1, withscores=True)) == {f"{OTHER}|{c}": 60}
    [(_, fields)] = raw.xrange(keys.ledger)
    assert [one["id"] for one in json.loads(fields[b"b"])] == ["a", "c"]


async def test_a_stale_settlement_is_fenced_and_changes_nothing_at_all(connection, keys, raw):
    [a] = put(raw, BOX)
    raw.zadd(keys.due, {f"{BOX}|{a}|1": UNDER_WAY})
    raw.zadd(keys.expiry, {f"{BOX}|{a}": 50})
    before = dump(raw)
    everything = Settlement(
        finished={BOX: [a]},
        events=[ended("a")],
        retries={"z|1|1": 1},
        over=[f"{BOX}|{a}|1"],
        forget=[f"{BOX}|{a}"],
    )
    for stale in ("6:tester", "7:teste", "8:tester", ""):
        with pytest.raises(Fenced):
            await settle(connection, keys, everything, owner=stale)
    assert dump(raw) == before


async def test_settling_what_is_gone_deletes_nothing_more(connection, keys, raw):
    [a] = put(raw, BOX)
    once = Settlement(finished={BOX: [a]}, events=[ended("a")])
    assert await settle(connection, keys, once) == 1
    assert await settle(connection, keys, once) == 0


async def test_due_times_keep_every_millisecond(connection, keys, raw):
    """Scores are doubles: whole milliseconds of any date, and the mark for "under way", are exact."""
    far_ms = 253_402_300_799_999
    await settle(connection, keys, Settlement(retries={"a|1-1|1": far_ms, "b|1-1|1": far_ms - 1}))
    assert members(raw.zrange(keys.due, 0, -1, withscores=True)) == {"a|1-1|1": far_ms, "b|1-1|1": far_ms - 1}
    assert int(float(UNDER_WAY)) == UNDER_WAY


# --- take_due -------------------------------------------------------------------------------------------


async def take_due(connection, keys, *, owner=OWNER, at_most=10):
    return await connection.evaluate(TAKE_DUE, (keys.owner("deliver"), keys.due), owner, at_most, UNDER_WAY)


async def test_due_retries_are_given_once_and_stay_marked(connection, keys, raw):
    raw.zadd(keys.due, {"early|1|1": 1, "later|1|2": 2, "future|1|1": 9_000_000_000_000})
    taken, next_ms, now_ms = await take_due(connection, keys, at_most=1)
    assert (taken, next_ms) == ([b"early|1|1"], b"2")
    assert abs(now_ms - raw.time()[0] * 1000) < 5_000
    taken, next_ms, _ = await take_due(connection, keys)
    assert (taken, next_ms) == ([b"later|1|2"], b"9000000000000")
    assert (await take_due(connection, keys))[0] == []
    assert members(raw.zrange(keys.due, 0, -1, withscores=True)) == {
        "early|1|1": UNDER_WAY,
        "later|1|2": UNDER_WAY,
        "future|1|1": 9_000_000_000_000,
    }


async def test_a_stale_owner_takes_no_retries(connection, keys, raw):
    raw.zadd(keys.due, {"early|1|1": 1})
    before = dump(raw)
    with pytest.raises(Fenced):
        await take_due(connection, keys, owner="6:tester")
    assert dump(raw) == before


async def test_nothing_due_says_so(connection, keys, raw):
    taken, next_ms, _ = await take_due(connection, keys)
    assert (taken, next_ms) == ([], None)


# --- expire ---------------------------------------------------------------------------------------------


async def expire(connection, keys, places, *, owner=OWNER):
    arguments = [part for _, entry, event in places for part in (entry, event)]
    names = (keys.owner("deliver"), keys.ledger, keys.expiry, *(box for box, _, _ in places))
    return await connection.evaluate(EXPIRE, names, owner, *arguments)


async def test_each_entry_expires_with_one_event_and_a_repeat_is_harmless(connection, keys, raw):
    [a, b] = put(raw, BOX, 2)
    raw.zadd(keys.expiry, {f"{BOX}|{a}": 1, f"{OTHER}|5-5": 1, f"{BOX}|{b}": 9})
    places = [(BOX, a, '{"id":"a"}'), (OTHER, "5-5", "")]
    assert await expire(connection, keys, places) == [1, 0]
    assert await expire(connection, keys, places) == [0, 0]
    assert [entry.decode() for entry, _ in raw.xrange(BOX)] == [b]
    assert members(raw.zrange(keys.expiry, 0, -1, withscores=True)) == {f"{BOX}|{b}": 9}
    assert [fields for _, fields in raw.xrange(keys.ledger)] == [{b"b": b'[{"id":"a"}]'}]


async def test_a_stale_owner_expires_nothing(connection, keys, raw):
    [a] = put(raw, BOX)
    raw.zadd(keys.expiry, {f"{BOX}|{a}": 1})
    before = dump(raw)
    with pytest.raises(Fenced):
        await expire(connection, keys, [(BOX, a, "{}")], owner="7:")
    assert dump(raw) == before


# --- vacate ---------------------------------------------------------------------------------------------


async def vacate(connection, keys, *boxes, owner=OWNER):
    return await connection.evaluate(VACATE, (keys.owner("deliver"), keys.active, *boxes), owner)


async def test_empty_mailboxes_leave_nothing_behind_and_full_ones_stay(connection, keys, raw):
    [a], _ = put(raw, BOX), put(raw, OTHER)
    raw.xdel(BOX, a)
    raw.zadd(keys.active, {BOX: 1, OTHER: 1, "ab:{0}:inbox:none:low": 1})
    assert await vacate(connection, keys, BOX, OTHER, "ab:{0}:inbox:none:low") == [1, 0, 1]
    assert not raw.exists(BOX)
    assert members(raw.zrange(keys.active, 0, -1, withscores=True)) == {OTHER: 1}
    assert await vacate(connection, keys, BOX, OTHER) == [1, 0]
    assert raw.xlen(OTHER) == 1


async def test_a_stale_owner_vacates_nothing(connection, keys, raw):
    raw.xdel(BOX, put(raw, BOX)[0])
    raw.zadd(keys.active, {BOX: 1})
    before = dump(raw)
    with pytest.raises(Fenced):
        await vacate(connection, keys, BOX, owner="6:tester")
    assert dump(raw) == before


# --- discard --------------------------------------------------------------------------------------------


async def test_discarding_drops_one_entry_and_its_expiry_once(connection, keys, raw):
    [a, b] = put(raw, BOX, 2)
    raw.zadd(keys.expiry, {f"{BOX}|{a}": 1, f"{BOX}|{b}": 1})
    assert (
        await connection.evaluate(DISCARD, (BOX, keys.expiry, keys.active, keys.doorbell), a, NATIVE_GROUP)
        == 1
    )
    assert (
        await connection.evaluate(DISCARD, (BOX, keys.expiry, keys.active, keys.doorbell), a, NATIVE_GROUP)
        == 0
    )
    assert [entry.decode() for entry, _ in raw.xrange(BOX)] == [b]
    assert members(raw.zrange(keys.expiry, 0, -1, withscores=True)) == {f"{BOX}|{b}": 1}


# --- put_back -------------------------------------------------------------------------------------------


async def put_back(connection, keys, due_ms, *names, owner=OWNER):
    return await connection.evaluate(PUT_BACK, (keys.owner("deliver"), keys.due), owner, due_ms, *names)


async def test_retries_put_back_get_a_new_time_and_what_is_gone_stays_gone(connection, keys, raw):
    raw.zadd(keys.due, {"a|1|1": UNDER_WAY, "b|1|1": 5})
    for _ in range(2):
        await put_back(connection, keys, 7, "a|1|1", "gone|1|1")
        assert members(raw.zrange(keys.due, 0, -1, withscores=True)) == {"a|1|1": 7, "b|1|1": 5}
    many = {f"m|{number}|1": UNDER_WAY for number in range(1_000)}
    raw.zadd(keys.due, many)
    await put_back(connection, keys, 9, *many)
    assert raw.zcount(keys.due, 9, 9) == 1_000


async def test_a_stale_owner_puts_nothing_back(connection, keys, raw):
    raw.zadd(keys.due, {"a|1|1": UNDER_WAY})
    before = dump(raw)
    with pytest.raises(Fenced):
        await put_back(connection, keys, 7, "a|1|1", owner="6:tester")
    assert dump(raw) == before
