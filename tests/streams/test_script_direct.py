"""Messages that routers hand to delivery directly: handed over, settled, put into mailboxes, taken over."""

import pytest
from streams_rig import OWNER, dump, members, route, settle

from broker.streams.moves import RouteBatch
from broker.streams.scripts import CLAIM, SHELVE
from broker.streams.settlement import Settlement
from schema.errors import Fenced
from schema.message import Lane

BOX = "ab:{0}:inbox:agent:normal"
OTHER = "ab:{0}:inbox:other:high"
EVENT = b'{"kind":"settled","id":"x","at_ms":1,"status":"delivered"}'
LIFE = "this one"


async def claim(connection, keys, *, owner: str = OWNER, life: str = LIFE) -> list[bytes]:
    return await connection.evaluate(CLAIM, (keys.owner("deliver"), keys.direct, keys.direct_to), owner, life)


async def shelve(
    connection, keys, *messages: tuple[str, str, bytes, bool], owner: str = OWNER
) -> list[bytes]:
    boxes = [box for _, box, _, _ in messages]
    parts = [part for name, _, message, served in messages for part in (name, message, int(served))]
    return await connection.evaluate(
        SHELVE, (keys.owner("deliver"), keys.direct, keys.active, *boxes), owner, 77, *parts
    )


def handed(*names: str) -> RouteBatch:
    batch = RouteBatch(recipient=LIFE)
    for name in names:
        batch.hand_over(name.encode(), name, b'{"id":"%b"}' % name.encode())
    return batch


async def test_what_is_handed_over_lies_in_one_hash_and_in_no_mailbox(connection, keys, raw):
    await claim(connection, keys)
    entry = raw.xadd(keys.ingress[Lane.NORMAL], {"m": "x"}).decode()
    batch = handed("a", "b", "c")
    batch.done[Lane.NORMAL].append(entry)
    assert await route(connection, keys, batch) == [b"", b"", b""]
    assert raw.hgetall(keys.direct) == {b"a": b'{"id":"a"}', b"b": b'{"id":"b"}', b"c": b'{"id":"c"}'}
    assert not raw.exists(keys.active)
    assert raw.xlen(keys.ingress[Lane.NORMAL]) == 0


async def test_beside_others_each_goes_where_it_belongs_and_duplicates_nowhere(connection, keys, raw):
    await claim(connection, keys)
    await route(connection, keys, handed("seen", "also"))
    batch = RouteBatch(recipient=LIFE)
    batch.add(b"1", BOX, b"to a mailbox")
    batch.hand_over(b"seen", "again", b"a duplicate")
    batch.hand_over(b"2", "first", b"handed")
    batch.add(b"also", OTHER, b"a duplicate too")
    batch.wait("gateway")
    batch.add(b"", "")
    batch.tell(EVENT)
    batch.hand_over(b"3", "second", b"handed as well")
    batch.add(b"4", OTHER, b"with an expiry")
    batch.expire(50)
    batch.activate = {BOX}
    box, *between, other = await route(connection, keys, batch)
    assert between == [None, b"", None, b"", b""]
    assert raw.hgetall(keys.direct).keys() == {b"seen", b"also", b"first", b"second"}
    assert raw.hmget(keys.direct, "first", "second") == [b"handed", b"handed as well"]
    assert raw.xrange(BOX) == [(box, {b"m": b"to a mailbox"})]
    assert raw.xrange(OTHER) == [(other, {b"m": b"with an expiry"})]
    assert members(raw.zrange(keys.expiry, 0, -1, withscores=True)) == {f"{OTHER}|{other.decode()}": 50}
    assert raw.zrange(keys.active, 0, -1) == [BOX.encode()]
    assert raw.xlen(keys.ledger) == 1


async def test_all_of_them_duplicates_change_nothing_but_the_ingress(connection, keys, raw):
    await claim(connection, keys)
    await route(connection, keys, handed("a", "b"))
    assert await route(connection, keys, handed("a", "b")) == [None, None]
    assert raw.hlen(keys.direct) == 2


async def test_nothing_is_handed_to_whom_nobody_is_any_more(connection, keys, raw):
    """A call that was still on its way when a new owner, or the same one anew, has looked what is there."""
    await claim(connection, keys, life="the one before")
    await claim(connection, keys)
    before = dump(raw)
    late = RouteBatch(recipient="the one before")
    late.hand_over(b"k", "late", b"{}")
    with pytest.raises(Fenced):
        await route(connection, keys, late)
    assert dump(raw) == before


async def test_claiming_returns_what_is_left_and_needs_the_lease(connection, keys, raw):
    await claim(connection, keys, life="the one before")
    batch = handed("a", "b")
    batch.recipient = "the one before"
    await route(connection, keys, batch)
    with pytest.raises(Fenced):
        await claim(connection, keys, owner="6:slept")
    assert raw.get(keys.direct_to) == b"the one before"
    assert sorted(await claim(connection, keys)) == [b"a", b"b"]


async def test_settling_deletes_what_was_handed_over(connection, keys, raw):
    await claim(connection, keys)
    await route(connection, keys, handed("a", "b", "c"))
    entry = raw.xadd(BOX, {"m": "{}"}).decode()
    settlement = Settlement(
        direct=["a", "c"], finished={BOX: [entry]}, events=[EVENT], retries={f"{OTHER}|1-1|1": 9}
    )
    assert await settle(connection, keys, settlement) == 3
    assert raw.hkeys(keys.direct) == [b"b"]
    assert raw.xlen(BOX) == 0
    assert members(raw.zrange(keys.due, 0, -1, withscores=True)) == {f"{OTHER}|1-1|1": 9}
    assert await settle(connection, keys, Settlement(direct=["a"], events=[EVENT])) == 0
    with pytest.raises(Fenced):
        await settle(connection, keys, Settlement(direct=["b"], events=[EVENT]), owner="6:slept")
    assert raw.hkeys(keys.direct) == [b"b"]


async def test_shelving_moves_each_once_and_says_whose_mailbox_is_to_be_served(connection, keys, raw):
    await claim(connection, keys)
    await route(connection, keys, handed("a", "b"))
    first, second, gone = await shelve(
        connection, keys, ("a", BOX, b"A", True), ("b", OTHER, b"B", False), ("x", BOX, b"X", True)
    )
    assert raw.xrange(BOX) == [(first, {b"m": b"A"})]
    assert raw.xrange(OTHER) == [(second, {b"m": b"B"})]
    assert gone == b"0-0"
    assert not raw.exists(keys.direct)
    assert members(raw.zrange(keys.active, 0, -1, withscores=True)) == {BOX: 77}
    assert await shelve(connection, keys, ("a", BOX, b"A", True)) == [b"0-0"]
    assert raw.xlen(BOX) == 1


async def test_a_late_owner_shelves_nothing(connection, keys, raw):
    await claim(connection, keys)
    await route(connection, keys, handed("a"))
    before = dump(raw)
    with pytest.raises(Fenced):
        await shelve(connection, keys, ("a", BOX, b"A", True), owner="6:slept")
    assert dump(raw) == before
