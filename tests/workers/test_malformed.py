"""Whatever publishers write: what is no message is set aside with bytes and reason, the rest goes on."""

from base64 import b64decode
from datetime import UTC, datetime

import pytest
from worker_rig import World, message, until

from broker.streams.lanes import joined
from schema.codec import encode
from schema.ids import new_id
from schema.ledger import EventKind
from schema.limits import ENTRY_MESSAGES_MAX, ENVELOPE_BYTES_MAX, PUBLISH_MESSAGES_PER_ENTRY_MAX
from schema.message import LANES, Lane, Status

ID = new_id()


def fields(rest: bytes, to: bytes = b"") -> bytes:
    return b'{"id":"%b","to_agent_id":"%b",%b}' % (ID.encode(), to or b"agent", rest)


BAD = {
    "empty": b"",
    "not JSON": b"hello",
    "cut short": b'{"id":"',
    "an array": b"[1,2]",
    "null": b"null",
    "no id": b'{"to_agent_id":"agent"}',
    "an id that is none": b'{"id":"one","to_agent_id":"agent"}',
    "binary": bytes(range(256)),
    "not UTF-8": fields(b'"content":{"a":"\xff\xfe"}'),
    "UTF-8 of a surrogate": fields(b'"content":{"a":"\xed\xa0\x80"}'),
    "a raw NUL": fields(b'"content":{"a":"\x00"}'),
    "an escaped NUL": fields(b'"content":{"a":"\\u0000"}'),
    "an escaped NUL in a key": fields(b'"metadata":{"\\u0000":1}'),
    "a lone surrogate": fields(b'"content":{"a":"\\ud800"}'),
    "a lone surrogate in the type": fields(b'"message_type":"\\udc00"'),
    "priority 0": fields(b'"priority":0'),
    "priority 11": fields(b'"priority":11'),
    "priority text": fields(b'"priority":"high"'),
    "content text": fields(b'"content":"text"'),
    "metadata null": fields(b'"metadata":null'),
    "content deep": fields(b'"content":{"a":' + b"[" * 60_000 + b"]" * 60_000 + b"}"),
    "an unknown field deep": fields(b'"else":' + b"[" * 60_000 + b"]" * 60_000),
    "deep with an escape": fields(b'"content":{"b":"\\u0041","a":' + b"[" * 5_000 + b"]" * 5_000 + b"}"),
    "hop negative": fields(b'"hop":-1'),
    "hop enormous": fields(b'"hop":' + b"9" * 400),
    "hop beyond an integer": fields(b'"hop":99999999999999999999'),
    "round negative": fields(b'"round":-1'),
    "round enormous": fields(b'"round":70000'),
    "type too long": fields(b'"message_type":"%b"' % (b"x" * 65)),
    "conversation too long": fields(b'"conversation_id":"%b"' % (b"x" * 129)),
    "root that is no id": fields(b'"root_id":"x"'),
    "reply to no id": fields(b'"reply_to":"x"'),
    "a date that is none": fields(b'"created_at":"yesterday"'),
    "33 requirements": b'{"id":"%b","requirements":[%b]}' % (ID.encode(), b",".join([b'"x"'] * 33)),
    "neither recipient nor requirements": b'{"id":"%b"}' % ID.encode(),
    "empty requirements": b'{"id":"%b","requirements":[]}' % ID.encode(),
    "an unknown recipient": b'{"id":"%b","to_agent_id":"nobody"}' % ID.encode(),
    "an unknown sender": b'{"id":"%b","to_agent_id":"agent","from_agent_id":"nobody"}' % ID.encode(),
    "too large": fields(b'"content":{"a":"%b"}' % (b"x" * ENVELOPE_BYTES_MAX)),
    "years ahead": fields(b'"deliver_at":"2999-01-01T00:00:00Z"'),
}


@pytest.mark.parametrize("raw", BAD.values(), ids=BAD.keys())
async def test_it_is_set_aside_with_its_bytes_and_the_stream_goes_on(streams_url, raw):
    async with World(streams_url) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver, name="agent")
        puller = world.agent(name="puller")
        site = await world.site()
        lane = world.keys[0].ingress[Lane.HIGH]
        entry = world.raw.xadd(lane, {"m": raw}).decode()
        # With one for a puller: its event names its mailbox entry, and must keep doing so.
        ids = await world.send(message(puller, lane=Lane.HIGH), message(agent, lane=Lane.HIGH))
        await world.until_ended(ids[1:])
        await until(lambda: any(one.kind is EventKind.QUARANTINED for one in world.events()))
        [kept] = [one for one in world.events() if one.kind is EventKind.QUARANTINED]
        assert (kept.id, kept.stream) == (entry, lane)
        assert kept.reason
        assert kept.detail
        assert b64decode(kept.raw) == raw
        assert receiver.ids == ids[1:]
        assert site.failures == []
        told = world.by_id()[ids[0]]
        stored = [one.decode() for one, _ in world.raw.xrange(world.keys[0].mailbox(puller.id, Lane.HIGH))]
        assert [one.mailbox_entry for one in told] == stored


async def test_good_and_bad_messages_of_one_batch_keep_their_ledger_entries_apart(any_streams_url):
    """A set-aside message that is readable makes two events; the entries named beside them match."""
    async with World(any_streams_url) as world:
        puller = world.agent()
        ids = []
        for number in range(20):
            bad = encode(message("nobody")) if number % 2 else b"nonsense"
            good = message(puller, lane=Lane.HIGH)
            ids.append(good.id)
            world.raw.execute_command(
                "XADD", world.keys[0].ingress[Lane.HIGH], "*", "m", encode(good), "m", bad, "m", encode(good)
            )
        await world.site()
        await until(lambda: set(ids) <= set(world.by_id()))
        stored = world.raw.xrange(world.keys[0].mailbox(puller.id, Lane.HIGH))
        placed = {one.mailbox_entry: one.id for one in world.events() if one.id in ids}
        from schema.codec import decode_stored_envelope

        assert {entry.decode(): decode_stored_envelope(held[b"m"]).id for entry, held in stored} == placed
        ended = [one for one in world.events() if one.kind is EventKind.SETTLED]
        assert [(one.status, one.reason) for one in ended] == [(Status.FAILED, "unknown_recipient")] * 10


@pytest.mark.parametrize(
    "written",
    [
        {"x": "no message at all"},
        {"M": "nearly"},
    ],
)
async def test_an_entry_without_a_message_is_set_aside(streams_url, written):
    async with World(streams_url) as world:
        agent = world.agent()
        await world.site()
        entry = world.raw.xadd(world.keys[0].ingress[Lane.LOW], written).decode()
        ids = await world.send(message(agent))
        await until(lambda: len(world.by_id()) == 2)
        assert set(world.by_id()) == {entry, *ids}


@pytest.mark.parametrize("together", [True, False], ids=["one field", "a field each"])
async def test_an_entry_with_too_many_messages_is_set_aside_whole(streams_url, together):
    async with World(streams_url) as world:
        agent = world.agent()
        await world.site()
        many = [encode(message(agent)) for _ in range(ENTRY_MESSAGES_MAX + 44)]
        several = ["m", joined(many)] if together else [part for one in many for part in ("m", one)]
        entry = world.raw.execute_command("XADD", world.keys[0].ingress[Lane.LOW], "*", *several).decode()
        ids = await world.send(message(agent))
        await until(lambda: len(world.by_id()) == 2)
        assert set(world.by_id()) == {entry, *ids}


async def test_an_entry_of_monstrous_size_is_set_aside_without_all_its_bytes(streams_url):
    """The ledger and Postgres keep what tells what it was, not what might burst them."""
    async with World(streams_url) as world:
        await world.site()
        entry = world.raw.xadd(world.keys[0].ingress[Lane.LOW], {"m": b"x" * 20_000_000}).decode()
        await until(lambda: entry in world.by_id())
        [kept] = world.events()
        assert 0 < len(kept.raw) < 2_000_000
        assert "20000000" in kept.detail


async def test_a_backlog_of_full_entries_is_routed(any_streams_url):
    """A router that starts on a backlog of full entries must not put them all in one call:
    Lua takes no more than some 8,000 values at once."""
    async with World(any_streams_url) as world:
        agent = world.agent()
        count = 300 * PUBLISH_MESSAGES_PER_ENTRY_MAX
        await world.send(*(message(agent) for _ in range(count)))
        site = await world.site()
        await until(
            lambda: world.raw.xlen(world.keys[0].mailbox(agent.id, Lane.NORMAL)) == count, timeout_s=30
        )
        assert site.failures == []
        sizes = [held[b"b"].count(b'"kind"') for _, held in world.raw.xrange(world.keys[0].ledger)]
        assert max(sizes) <= ENTRY_MESSAGES_MAX


async def test_absurd_times_are_corrected_and_unknown_fields_do_no_harm(streams_url):
    from datetime import UTC, datetime

    from schema.codec import decode_stored_envelope

    async with World(streams_url) as world:
        world.agent(name="agent")
        await world.site()
        for created in ("0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "1999-01-01T00:00:00"):
            raw = (
                b'{"id":"%b","to_agent_id":"agent","created_at":"%b","else":{"a":[1,2]},"status":"processed"}'
                % (
                    new_id().encode(),
                    created.encode(),
                )
            )
            world.raw.xadd(world.keys[0].ingress[Lane.LOW], {"m": raw})
        await until(lambda: len(world.events()) == 3)
        for event in world.events():
            envelope = decode_stored_envelope(event.message)
            assert abs((envelope.created_at - datetime.now(UTC)).total_seconds()) < 10
            assert envelope.status == "pending"
            assert b"else" not in bytes(event.message)


async def test_every_lane_goes_on_beside_a_flood_of_nonsense(streams_url):
    async with World(streams_url) as world:
        receiver = await world.receiver()
        agent = world.agent(receiver)
        pipe = world.raw.pipeline()
        for lane in LANES:
            for number in range(500):
                pipe.xadd(world.keys[0].ingress[lane], {"m": b"\xff%d" % number, "w": b"\xff\x00 gw"})
        pipe.execute()
        ids = await world.send(*(message(agent, lane=lane) for lane in LANES))
        await world.site()
        await world.until_ended(ids)
        await until(lambda: len([1 for one in world.events() if one.kind is EventKind.QUARANTINED]) == 1_500)
        await world.until_clean()


async def test_what_was_scheduled_goes_on_whatever_time_its_entry_tells(streams_url):
    """A native publisher may have written an entry with an id beyond the years there are; those after it get
    such ids, too. How old a message may be was judged when it came first."""
    async with World(streams_url) as world:
        receiver = await world.receiver()
        one = message(world.agent(receiver))
        one.created_at = datetime.now(UTC)
        world.raw.xadd(world.keys[0].ingress[Lane.LOW], {"m": encode(one), "p": "1"}, id=f"{10**15}-0")
        await world.site()
        await world.until_ended([one.id])
        assert receiver.times == {one.id: 1}
