"""The ledger: read in order, cut exactly, by its owner only."""

from base64 import b64decode

import pytest
from ledger_events import envelope, settled
from msgspec import Raw
from streams_rig import OWNER

from broker.core.fold import fold
from broker.streams.ledger import LedgerReader
from schema.codec import encode
from schema.errors import Fenced
from schema.ledger import Event, EventKind


def events(*names: str) -> bytes:
    return encode([Event(kind=EventKind.ROUTED, id=name, at_ms=1) for name in names])


async def test_events_are_given_the_mailbox_entries_they_belong_to(connection, keys, raw):
    raw.xadd(keys.ledger, {"b": events("a", "b", "c"), "i": "1-1 - 2-7"})
    raw.xadd(keys.ledger, {"b": events("d")})
    first, second = await LedgerReader(connection, shards=1).read(0, "0-0", count=10)
    assert [(one.id, one.mailbox_entry) for one in first.events] == [("a", "1-1"), ("b", None), ("c", "2-7")]
    assert [(one.id, one.mailbox_entry) for one in second.events] == [("d", None)]
    assert first.size_bytes == len(events("a", "b", "c"))


async def test_reading_goes_on_behind_the_last_entry(connection, keys, raw):
    ids = [raw.xadd(keys.ledger, {"b": events(str(number))}).decode() for number in range(5)]
    reader = LedgerReader(connection, shards=1)
    assert [entry.id for entry in await reader.read(0, "0-0", count=2)] == ids[:2]
    assert [entry.id for entry in await reader.read(0, ids[1], count=10)] == ids[2:]
    assert await reader.read(0, ids[4], count=10) == []
    assert await reader.read(0, ids[4], count=10, block_ms=20) == []


async def test_cutting_drops_exactly_what_was_recorded(connection, keys, raw):
    ids = [raw.xadd(keys.ledger, {"b": "[]"}).decode() for _ in range(500)]
    reader = LedgerReader(connection, shards=1)
    with pytest.raises(Fenced):
        await reader.cut(0, ids[-1], "6:tester")
    assert await reader.cut(0, ids[99], OWNER) == 100
    assert await reader.cut(0, ids[99], OWNER) == 0
    assert raw.xrange(keys.ledger, count=1)[0][0].decode() == ids[100]
    assert raw.xlen(keys.ledger) == 400


async def test_the_lag_is_what_waits_and_for_how_long(connection, keys, raw):
    reader = LedgerReader(connection, shards=1)
    assert await reader.lag(0, now_ms=1_000) == (0, 0)
    raw.xadd(keys.ledger, {"b": "[]"}, id="400-0")
    raw.xadd(keys.ledger, {"b": "[]"}, id="900-3")
    assert await reader.lag(0, now_ms=1_000) == (2, 600)
    assert await reader.lag(0, now_ms=100) == (2, 0)


@pytest.mark.parametrize("fields", [{"b": b"not json"}, {"x": b"y"}, {"b": events("a"), "i": b"1-1 2-2"}])
async def test_an_entry_that_cannot_be_read_is_set_aside_with_its_bytes(connection, keys, raw, fields):
    entry = raw.xadd(keys.ledger, fields).decode()
    raw.xadd(keys.ledger, {"b": events("after")})
    odd, after = await LedgerReader(connection, shards=1).read(0, "0-0", count=10)
    assert [(one.kind, one.id, one.stream) for one in odd.events] == [
        (EventKind.QUARANTINED, entry, keys.ledger)
    ]
    assert b64decode(odd.events[0].raw) == fields.get("b", b"")
    assert [one.id for one in after.events] == ["after"]


async def test_a_message_that_cannot_be_read_costs_no_other_of_its_entry(connection, keys, raw):
    good, bad = envelope(), envelope()
    raw.xadd(keys.ledger, {"b": encode([settled(bad, message=Raw(b'{"id": 7}')), settled(good)])})
    (entry,) = await LedgerReader(connection, shards=1).read(0, "0-0", count=10)
    rows = fold(entry.events)
    assert [row.id for row in rows.messages] == [good.id]
    assert [(row.entry, row.raw) for row in rows.quarantine] == [(bad.id, b'{"id": 7}')]
