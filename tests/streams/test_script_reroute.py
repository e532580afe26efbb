"""The reroute script: from one agent back to the router, in one step or not at all."""

import json

import pytest
from streams_rig import OWNER, dump, members

from broker.streams.scripts import REROUTE
from schema.codec import encode
from schema.errors import Fenced
from schema.ledger import Event, EventKind
from schema.message import Lane

BOX = "ab:{0}:inbox:agent:normal"
ENTRY = "1700000000000-0"
EVENT = encode(Event(kind=EventKind.ATTEMPTED, id="m", at_ms=1))


async def reroute(connection, keys, *, owner=OWNER, waiter="", due="", entry=ENTRY):
    script_keys = (keys.owner("deliver"), keys.ledger, keys.due, keys.expiry, BOX, keys.ingress[Lane.NORMAL])
    return await connection.evaluate(REROUTE, script_keys, owner, entry, EVENT, '{"id":"m"}', waiter, due)


@pytest.mark.parametrize("waiter", ["", "gateway"])
async def test_it_is_in_one_place_before_and_after(connection, keys, raw, waiter):
    raw.xadd(BOX, {"m": "{}"}, id=ENTRY)
    other = raw.xadd(BOX, {"m": "{}"}).decode()
    raw.zadd(keys.due, {f"{BOX}|{ENTRY}|2": 9, f"{BOX}|{other}|1": 9})
    raw.zadd(keys.expiry, {f"{BOX}|{ENTRY}": 5, f"{BOX}|{other}": 6})
    assert await reroute(connection, keys, waiter=waiter, due=f"{BOX}|{ENTRY}|2") == 1
    assert [entry.decode() for entry, _ in raw.xrange(BOX)] == [other]
    [(_, fields)] = raw.xrange(keys.ingress[Lane.NORMAL])
    expected = {b"m": b'{"id":"m"}', b"p": b"1"} | ({b"w": b"gateway"} if waiter else {})
    assert fields == expected
    assert members(raw.zrange(keys.due, 0, -1, withscores=True)) == {f"{BOX}|{other}|1": 9}
    assert members(raw.zrange(keys.expiry, 0, -1, withscores=True)) == {f"{BOX}|{other}": 6}
    [(_, told)] = raw.xrange(keys.ledger)
    assert [one["id"] for one in json.loads(told[b"b"])] == ["m"]


async def test_what_was_taken_out_meanwhile_is_not_put_back_and_the_attempt_is_told_of(connection, keys, raw):
    raw.xadd(BOX, {"m": "{}"})
    assert await reroute(connection, keys) == 0
    assert raw.xlen(keys.ingress[Lane.NORMAL]) == 0
    assert raw.xlen(keys.ledger) == 1


async def test_a_stale_owner_passes_nothing_on(connection, keys, raw):
    raw.xadd(BOX, {"m": "{}"}, id=ENTRY)
    before = dump(raw)
    with pytest.raises(Fenced):
        await reroute(connection, keys, owner="6:tester")
    assert dump(raw) == before
