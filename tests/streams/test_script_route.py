"""The route script: what one call moves, and what it leaves alone."""

import json

import pytest
import redis
from cluster import one_server
from streams_rig import NOW_MS, OWNER, WINDOW_MS, Move, dump, members, moves, route

from broker.streams.connection import Connection
from broker.streams.keys import Keys
from broker.streams.moves import RouteBatch
from schema.errors import Fenced
from schema.message import LANES, Lane

BOX = "ab:{0}:inbox:agent:normal"
OTHER = "ab:{0}:inbox:other:high"


def event(name: str) -> bytes:
    return json.dumps({"name": name}).encode()


async def test_a_message_lands_in_its_mailbox_with_its_waiter_and_its_expiry(connection, keys, raw):
    batch = moves(Move(b"k1", BOX, b"{}", waiter="gw", moment=5_000), Move(b"k2", OTHER, b"[]"))
    batch.activate.add(OTHER)
    first, second = await route(connection, keys, batch)
    assert raw.xrange(BOX) == [(first, {b"m": b"{}", b"w": b"gw"})]
    assert raw.xrange(OTHER) == [(second, {b"m": b"[]"})]
    assert members(raw.zrange(keys.expiry, 0, -1, withscores=True)) == {f"{BOX}|{first.decode()}": 5_000}
    assert members(raw.zrange(keys.active, 0, -1, withscores=True)) == {OTHER: NOW_MS}


async def test_ingress_entries_go_with_the_call_that_moves_their_messages(connection, keys, raw):
    ids = {lane: [raw.xadd(keys.ingress[lane], {"m": "x"}).decode() for _ in range(3)] for lane in LANES}
    batch = moves(Move(b"k", BOX, b"{}"))
    batch.done = {Lane.HIGH: ids[Lane.HIGH][:1], Lane.NORMAL: [], Lane.LOW: ids[Lane.LOW]}
    await route(connection, keys, batch)
    assert [raw.xlen(keys.ingress[lane]) for lane in LANES] == [2, 3, 0]


async def test_a_mailbox_holds_whatever_is_routed_to_it(connection, keys, raw):
    """What is work is bounded by who may publish, never by what is dropped."""
    for _ in range(10):
        await route(connection, keys, moves(*(Move(b"", BOX, b"{}", waiter="gw" * n) for n in (0, 1) * 101)))
    assert raw.xlen(BOX) == 10 * 202


@one_server
async def test_a_stale_owner_is_fenced_and_changes_nothing_at_all(connection, keys, raw):
    entry = raw.xadd(keys.ingress[Lane.HIGH], {"m": "x"}).decode()
    raw.hset(keys.chosen, "id", "agent")
    batch = moves(
        Move(b"k", BOX, b"{}", event=event("a"), moment=1), Move(b"l", None, b"{}", later="0x", moment=9)
    )
    batch.activate.add(BOX)
    batch.parked["sig"] = b"{}"
    batch.forget.append("id")
    batch.done[Lane.HIGH].append(entry)
    batch.ring[BOX] = None
    before = dump(raw)
    for stale in ("6:tester", "7:other", ""):
        with pytest.raises(Fenced):
            await route(connection, keys, batch, owner=stale)
    raw.delete(keys.owner("route"))
    before.pop(keys.owner("route").encode())
    with pytest.raises(Fenced):
        await route(connection, keys, batch)
    assert dump(raw) == before


@pytest.mark.parametrize(
    ("later_ms", "is_duplicate"),
    [
        pytest.param(0, True, id="the same window"),
        pytest.param(WINDOW_MS, True, id="the next window"),
        pytest.param(2 * WINDOW_MS, False, id="two windows on"),
    ],
)
async def test_what_was_seen_is_a_duplicate(connection, keys, raw, later_ms, is_duplicate):
    await route(connection, keys, moves(Move(b"k", BOX, b"{}", event=event("first"))))
    again = moves(Move(b"k", OTHER, b"{}", event=event("again"), moment=1), Move(b"n", OTHER, b"{}"))
    reply = await route(connection, keys, again, now_ms=NOW_MS + later_ms)
    assert (reply[0] is None) is is_duplicate
    assert reply[1]
    assert raw.xlen(OTHER) == (1 if is_duplicate else 2)
    assert raw.zcard(keys.expiry) == (0 if is_duplicate else 1)
    assert raw.xlen(keys.ledger) == (1 if is_duplicate else 2)


async def test_what_was_seen_is_forgotten_after_two_windows(connection, keys, raw):
    await route(connection, keys, moves(Move(b"k", BOX, b"{}")))
    assert 0 < raw.pttl(keys.seen(NOW_MS // WINDOW_MS)) <= 2 * WINDOW_MS


async def test_messages_without_a_key_are_never_duplicates(connection, keys, raw):
    for _ in range(2):
        assert all(await route(connection, keys, moves(Move(b"", BOX, b"{}"), Move(b"", BOX, b"{}"))))
    assert raw.xlen(BOX) == 4
    assert not raw.exists(keys.seen(NOW_MS // WINDOW_MS))


async def test_another_round_of_the_same_message_is_no_duplicate(connection, keys, raw):
    from schema.ids import new_id
    from schema.message import Envelope
    from workers.placing import deduplication_key

    message_id = new_id()
    for number in (None, 1, 2):
        envelope = Envelope(id=message_id) if number is None else Envelope(id=message_id, round=number)
        assert await route(connection, keys, moves(Move(deduplication_key(envelope), BOX, b"{}"))) != [None]
        assert await route(connection, keys, moves(Move(deduplication_key(envelope), BOX, b"{}"))) == [None]


async def test_ledger_events_pair_with_the_entries_they_speak_of(connection, keys, raw):
    await route(connection, keys, moves(Move(b"seen", BOX, b"{}")))
    batch = moves(
        Move(b"a", BOX, b"{}", event=event("in a mailbox")),
        Move(b"b", None, event=event("ended")),
        Move(b"seen", BOX, b"{}", event=event("duplicate")),
        Move(b"c", BOX, b"{}"),
        Move(b"d", OTHER, b"{}", event=event("in another")),
        Move(b"e", None, b"{}", event=event("scheduled"), later="1id", moment=99),
    )
    reply = await route(connection, keys, batch)
    [(_, fields)] = raw.xrange(keys.ledger)
    names = [one["name"] for one in json.loads(fields[b"b"])]
    entries = fields[b"i"].split(b" ")
    assert list(zip(names, entries, strict=True)) == [
        ("in a mailbox", reply[0]),
        ("ended", b"-"),
        ("in another", reply[4]),
        ("scheduled", b"-"),
    ]
    assert reply[1] == reply[5] == b""
    assert reply[2] is None


async def test_without_mailbox_entries_the_ledger_names_none(connection, keys, raw):
    await route(connection, keys, moves(Move(b"b", None, event=event("ended"))))
    [(_, fields)] = raw.xrange(keys.ledger)
    assert set(fields) == {b"b"}


async def test_a_scheduled_message_waits_under_its_lane_and_id(connection, keys, raw):
    assert await route(connection, keys, moves(Move(b"b", None, b"{}", later="2id", moment=99))) == [b""]
    assert members(raw.zrange(keys.later, 0, -1, withscores=True)) == {"2id": 99}
    assert raw.hgetall(keys.later_messages) == {b"2id": b"{}"}


async def test_parked_signatures_and_forgotten_choices_change_with_the_batch(connection, keys, raw):
    raw.hset(keys.chosen, mapping={"one": "x", "two": "y"})
    parked = keys.parked_stream("sig:low")
    batch = moves(Move(b"b", parked, b"{}", moment=7))
    batch.parked["sig:low"] = b"[needs]"
    batch.forget = ["one"]
    [entry] = await route(connection, keys, batch)
    assert raw.hgetall(keys.parked) == {b"sig:low": b"[needs]"}
    assert raw.hgetall(keys.chosen) == {b"two": b"y"}
    assert members(raw.zrange(keys.expiry, 0, -1, withscores=True)) == {f"{parked}|{entry.decode()}": 7}


async def test_a_mailbox_keeps_the_time_it_became_active(connection, keys, raw):
    for later_ms in (0, 5_000):
        batch = moves(Move(b"", BOX, b"{}"))
        batch.activate.add(BOX)
        await route(connection, keys, batch, now_ms=NOW_MS + later_ms)
    assert members(raw.zrange(keys.active, 0, -1, withscores=True)) == {BOX: NOW_MS}


async def test_the_doorbell_names_the_mailboxes_of_the_call(connection, keys, raw):
    batch = moves(Move(b"", BOX, b"{}"), Move(b"", OTHER, b"{}"))
    batch.ring = dict.fromkeys([BOX, OTHER])
    await route(connection, keys, batch)
    [(_, fields)] = raw.xrange(keys.doorbell)
    assert fields == {b"m": f"{BOX} {OTHER}".encode()}


async def test_an_empty_batch_still_finishes_ingress_entries(
    connection: Connection, keys: Keys, raw: redis.Redis
):
    entry = raw.xadd(keys.ingress[Lane.LOW], {"m": "x"}).decode()
    batch = RouteBatch()
    batch.done[Lane.LOW].append(entry)
    assert await route(connection, keys, batch) == []
    assert raw.xlen(keys.ingress[Lane.LOW]) == 0


async def test_a_call_as_large_as_an_entry_may_be_goes_through(connection, keys, raw):
    """Lua's `unpack` has a limit near 8,000: an entry with every message it may carry stays far below it."""
    from schema.limits import ENTRY_MESSAGES_MAX, ROUTE_BATCH_MAX

    count = ENTRY_MESSAGES_MAX + ROUTE_BATCH_MAX
    batch = moves(
        *(
            Move(str(n).encode(), f"ab:{{0}}:inbox:{n}:low", b"{}", event=event("e"), moment=n + 1)
            for n in range(count)
        )
    )
    batch.activate = set(batch.targets)
    assert len(await route(connection, keys, batch)) == count
    assert raw.zcard(keys.active) == raw.zcard(keys.expiry) == count
    assert raw.get(keys.owner("route")).decode() == OWNER
