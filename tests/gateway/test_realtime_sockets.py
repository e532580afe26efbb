"""Live sessions as WebSockets: messages, acknowledgements, sending, everything that may be said wrongly."""

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import pytest
from gateway_rig import OPERATOR_KEY, Register
from msgspec import Raw
from realtime_rig import Lane, Mailman, mailing, talking, until
from recording import Recorder, now_ms
from websockets.exceptions import InvalidStatus

from broker.gateway.realtime.session import Session
from broker.gateway.serve import Running
from broker.gateway.waiting import Rung
from broker.store import messages as stored_messages
from broker.streams.keys import Keys
from schema.codec import decode_envelope, encode
from schema.ids import new_id
from schema.ledger import Event, EventKind
from schema.limits import FRAME_BYTES_MAX, PREFETCH_MAX
from schema.message import LANES, Envelope, Status


@pytest.fixture
def mail(gateway: Running, streams_url: str) -> Iterator[Mailman]:
    with mailing(streams_url, gateway.services.settings.shards) as mailman:
        yield mailman


def live(gateway: Running, agent_id: str) -> Session:
    session = gateway.services.realtime.session_of(agent_id)
    assert session is not None
    return session


async def record(recorder: Recorder, *messages: Envelope) -> None:
    """Write messages down as routed, as the recorder does."""
    await recorder.write(
        [
            Event(
                kind=EventKind.ROUTED, id=one.id, at_ms=now_ms(), message=Raw(encode(one)), to=one.to_agent_id
            )
            for one in messages
        ]
    )


# --- acknowledging --------------------------------------------------------------------------------------


async def test_an_acknowledged_message_is_gone_and_one_that_is_not_is_sent_to_the_next_session(
    gateway: Running, register: Register, mail: Mailman
) -> None:
    agent = await register("puller")
    first, second = mail.put(agent["id"]), mail.put(agent["id"])
    async with talking(gateway, agent["api_key"]) as socket:
        hello = await socket.next()
        assert (hello["type"], hello["agent_id"]) == ("hello", agent["id"])
        assert [one["id"] for one in await socket.messages(2)] == [first.id, second.id]
        assert await socket.ack(first.id) == {"type": "acked", "message_id": first.id}
        assert await socket.ack(first.id, ref="again") == {
            "type": "error",
            "error": {"code": "not_found", "message": "no such message"},
            "message_id": first.id,
            "ref": "again",
        }
    async with talking(gateway, agent["api_key"]) as socket:
        assert [one["id"] for one in await socket.messages(1)] == [second.id]
        await socket.ack(second.id)
    assert mail.left(agent["id"]) == 0
    assert [(event.id, event.status) for event in mail.events(agent["id"])] == [
        (first.id, Status.DELIVERED),
        (second.id, Status.DELIVERED),
    ]


async def test_what_became_of_a_message_is_recorded_with_its_result_or_reason(
    gateway: Running, register: Register, mail: Mailman
) -> None:
    agent = await register("puller")
    done, failed = mail.put(agent["id"]), mail.put(agent["id"])
    async with talking(gateway, agent["api_key"]) as socket:
        await socket.messages(2)
        await socket.ack(done.id.upper(), status="processed", result={"found": [1, None]})
        await socket.ack(failed.id, status="failed", reason="no such car")
    one, two = mail.events(agent["id"])
    assert (one.status, bytes(one.result)) == (Status.PROCESSED, b'{"found": [1, null]}')  # type: ignore[arg-type]
    assert (two.status, two.reason) == (Status.FAILED, "no such car")


async def test_a_message_acknowledged_before_may_still_be_processed_on_record(
    gateway: Running, register: Register, mail: Mailman, recorder: Recorder
) -> None:
    agent = await register("puller")
    sent = mail.put(agent["id"])
    await record(recorder, sent)
    async with talking(gateway, agent["api_key"]) as socket:
        await socket.messages(1)
        await socket.ack(sent.id)
        assert (await socket.ack(sent.id, status="processed", result=7))["type"] == "acked"
        assert (await socket.ack(sent.id, status="processed"))["type"] == "acked"
        assert (await socket.ack(sent.id))["type"] == "acked"
        refused = await socket.ack(sent.id, status="failed")
        assert refused["error"]["code"] == "illegal_transition"
    row = await stored_messages.get(gateway.services.pool, sent.id)
    assert row is not None
    assert (row.status, bytes(row.result or b"")) == ("processed", b"7")
    # The ledger, which is behind, says it was delivered: that takes nothing back.
    await recorder.write(mail.events(agent["id"]))
    row = await stored_messages.get(gateway.services.pool, sent.id)
    assert row is not None
    assert row.status == "processed"


async def test_a_message_of_an_earlier_session_is_acknowledged_by_the_record(
    gateway: Running, register: Register, mail: Mailman, recorder: Recorder
) -> None:
    agent, other = await register("puller"), await register("other")
    sent, foreign = mail.put(agent["id"]), mail.put(other["id"])
    await record(recorder, sent, foreign)
    async with talking(gateway, agent["api_key"], prefetch=1) as socket:
        await socket.messages(1)
        await gateway.services.mailboxes.discard(agent["id"], Lane.NORMAL, mail.entry_of(sent))
        assert (await socket.ack(sent.id))["type"] == "acked"
        assert (await socket.ack(foreign.id))["error"]["code"] == "not_found"
    row = await stored_messages.get(gateway.services.pool, sent.id)
    assert row is not None
    assert row.status == "delivered"


async def test_who_waits_for_delivery_hears_of_the_acknowledgement(
    gateway: Running, register: Register, mail: Mailman
) -> None:
    agent = await register("puller")
    sent = mail.put(agent["id"], waiter=gateway.services.gateway_id, word=False)
    with gateway.services.waiters.expect(sent.id, Rung.DELIVERED) as waiter:
        async with talking(gateway, agent["api_key"]) as socket:
            await socket.messages(1)
            await socket.ack(sent.id)
            await waiter.heard(15_000)
        assert waiter.reached is Rung.DELIVERED


# --- how much is under way ------------------------------------------------------------------------------


async def test_no_more_than_the_prefetch_is_under_way_and_an_acknowledgement_makes_room(
    gateway: Running, register: Register, mail: Mailman
) -> None:
    agent = await register("puller")
    sent = [mail.put(agent["id"], word=False).id for _ in range(10)]
    async with talking(gateway, agent["api_key"], prefetch=3) as socket:
        got = [one["id"] for one in await socket.messages(3)]
        await until(lambda: live(gateway, agent["id"]).idle)
        mail.put(agent["id"])
        assert (await socket.ask(type="heartbeat"))["type"] == "heartbeat"
        assert len(live(gateway, agent["id"]).unacknowledged) == 3
        while len(got) < 10:
            await socket.ack(got[len(got) - 1])
            got += [one["id"] for one in await socket.messages(1)]
            assert len(live(gateway, agent["id"]).unacknowledged) <= 3
    assert got == sent


async def test_room_made_by_another_way_of_acknowledging_is_found_by_the_sweep(
    gateway: Running, register: Register, mail: Mailman
) -> None:
    agent = await register("puller")
    first, second = mail.put(agent["id"]), mail.put(agent["id"])
    async with talking(gateway, agent["api_key"], prefetch=1) as socket:
        await socket.messages(1)
        await until(lambda: live(gateway, agent["id"]).idle)
        await gateway.services.mailboxes.discard(agent["id"], Lane.NORMAL, mail.entry_of(first))
        await gateway.services.realtime.sweep()
        assert [one["id"] for one in await socket.messages(1)] == [second.id]


async def test_urgent_messages_come_first_and_bulk_ones_are_not_starved(
    gateway: Running, register: Register, mail: Mailman
) -> None:
    agent = await register("puller")
    for _ in range(60):
        mail.put(agent["id"], priority=1, word=False)
    low = mail.put(agent["id"], priority=9, word=False)
    async with talking(gateway, agent["api_key"], prefetch=1) as socket:
        before = 0
        while (one := (await socket.messages(1))[0])["id"] != low.id:
            before += 1
            await socket.ack(one["id"])
    assert 0 < before < 45


async def test_a_peer_that_does_not_read_holds_no_more_than_a_page_in_memory(
    gateway: Running, register: Register, mail: Mailman
) -> None:
    agent = await register("puller")
    body = b'{"x":"' + b"y" * 100_000 + b'"}'
    for _ in range(200):
        mail.put(agent["id"], content=body, word=False)
    async with talking(gateway, agent["api_key"], prefetch=PREFETCH_MAX) as socket:
        socket.connection.transport.pause_reading()
        session = live(gateway, agent["id"])
        await until(lambda: bool(session.unacknowledged))
        handed = -1
        while handed != len(session.unacknowledged):
            handed = len(session.unacknowledged)
            await asyncio.sleep(0.3)
        assert not session.idle
        assert handed < 150
        assert session.held_bytes <= 4 * 110_000
        server = [one for one in asyncio.all_tasks() if "run_asgi" in repr(one.get_coro())]
        assert len(server) == 1
        socket.connection.transport.resume_reading()
        assert len(await socket.messages(200)) == 200


async def test_a_peer_that_takes_nothing_for_too_long_is_dropped(
    gateway: Running, register: Register, mail: Mailman, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker.gateway.realtime.session.STALLED_S", 0.3)
    agent = await register("puller")
    for _ in range(100):
        mail.put(agent["id"], content=b'{"x":"' + b"y" * 200_000 + b'"}', word=False)
    async with talking(gateway, agent["api_key"], prefetch=PREFETCH_MAX) as socket:
        socket.connection.transport.pause_reading()
        await until(lambda: len(gateway.services.realtime) == 0)
        socket.connection.transport.abort()
    assert mail.left(agent["id"]) == 100


# --- sending --------------------------------------------------------------------------------------------


def published(mail: Mailman, shards: int) -> list[Envelope]:
    return [
        decode_envelope(fields[b"m"])
        for shard in range(shards)
        for lane in LANES
        for _, fields in mail.raw.xrange(Keys(shard).ingress[lane])
    ]


async def test_a_socket_sends_messages_and_answers_them(
    gateway: Running, register: Register, mail: Mailman
) -> None:
    agent, other = await register("puller"), await register("other")
    question = mail.put(agent["id"], from_agent_id=other["id"], conversation_id="c1")
    async with talking(gateway, agent["api_key"]) as socket:
        await socket.messages(1)
        sent = await socket.ask(
            type="send",
            ref=17,
            message={"to_agent_id": "other", "content": {"a": 1}, "from_agent_id": "puller"},
        )
        replied = await socket.ask(type="reply", message_id=question.id, content={"b": 2})
    assert (sent["type"], sent["ref"]) == ("accepted", 17)
    assert replied["type"] == "accepted"
    found = {one.id: one for one in published(mail, gateway.services.settings.shards)}
    message, reply = found[sent["message_id"]], found[replied["message_id"]]
    assert (message.from_agent_id, message.to_agent_id) == (agent["id"], other["id"])
    assert (reply.to_agent_id, reply.reply_to, reply.message_type) == (other["id"], question.id, "response")
    assert (reply.conversation_id, bytes(reply.content)) == ("c1", b'{"b": 2}')


WRONG: list[tuple[Any, str | None, str | None]] = [
    ({"type": "send", "message": {"content": {}}}, "invalid", "to_agent_id"),
    ({"type": "send", "message": {"to_agent_id": "nobody"}}, "unknown_recipient", "to_agent_id"),
    ({"type": "send", "message": {"to_agent_id": "other", "priority": 11}}, "invalid", "priority"),
    ({"type": "send", "message": [1]}, "invalid", None),
    ({"type": "send", "message": {"to_agent_id": "other", "content": [1]}}, "invalid", "content"),
    (
        {"type": "send", "message": {"to_agent_id": "other", "from_agent_id": "other"}},
        "agent_mismatch",
        "from_agent_id",
    ),
    ({"type": "send", "message": {"to_agent_id": "other", "content": {"a": "\x00"}}}, "invalid", None),
    ({"type": "reply", "message_id": "x", "content": {}}, "not_found", None),
    ({"type": "ack", "message_id": "x"}, "not_found", None),
    ({"type": "ack", "message_id": "x", "status": "pending"}, "invalid", None),
    ({"type": "ack", "message_id": "x", "reason": "y" * 501, "status": "failed"}, "invalid", "reason"),
    ({"type": "ack"}, "invalid", None),
    ({"type": "dance"}, "invalid", None),
    ({}, "invalid", None),
    ([], "invalid", None),
    ("{", "malformed", None),
    ("", "malformed", None),
    ("[" * 5_000, None, None),
    (b"\xff\xfe", "malformed", None),
]


async def test_what_is_wrong_with_a_frame_is_told_and_the_connection_stays(
    gateway: Running, register: Register
) -> None:
    agent = await register("puller")
    await register("other")
    async with talking(gateway, agent["api_key"]) as socket:
        await socket.next()
        for number, (frame, code, field) in enumerate(WRONG):
            await socket.connection.send(frame if isinstance(frame, str | bytes) else json.dumps(frame))
            answer = await socket.next()
            assert answer["type"] == "error", frame
            assert code is None or answer["error"]["code"] == code, frame
            assert answer["error"].get("field") == field, frame
            assert (await socket.ask(type="heartbeat", ref=number))["ref"] == number


async def test_a_frame_beyond_its_bound_ends_the_connection_with_1009(
    gateway: Running, register: Register
) -> None:
    agent = await register("puller")
    async with talking(gateway, agent["api_key"]) as socket:
        await socket.connection.send(json.dumps({"type": "heartbeat", "x": "y" * FRAME_BYTES_MAX}))
        assert await socket.closed() == 1009
    await until(lambda: len(gateway.services.realtime) == 0)


# --- who may --------------------------------------------------------------------------------------------


async def refused(gateway: Running, key: str | None, **more: Any) -> tuple[int, str]:
    """Return status and code of a refused upgrade."""
    with pytest.raises(InvalidStatus) as caught:
        async with talking(gateway, key, **more):
            pass
    response = caught.value.response
    return response.status_code, json.loads(response.body)["error"]["code"]


async def test_who_may_not_open_a_session_is_told_as_by_any_other_operation(
    gateway: Running, register: Register
) -> None:
    agent = await register("puller")
    pushed = await register("pushed", endpoint="http://127.0.0.1:9/hook")
    assert await refused(gateway, None) == (401, "unauthenticated")
    assert await refused(gateway, "ab_wrong") == (401, "unauthenticated")
    assert await refused(gateway, OPERATOR_KEY) == (422, "invalid")
    assert await refused(gateway, OPERATOR_KEY, agent_id=new_id()) == (422, "invalid")
    assert await refused(gateway, agent["api_key"], agent_id=pushed["id"]) == (403, "agent_mismatch")
    assert await refused(gateway, pushed["api_key"]) == (409, "has_endpoint")
    assert await refused(gateway, agent["api_key"], prefetch=0) == (422, "invalid")
    assert await refused(gateway, agent["api_key"], prefetch=257) == (422, "invalid")
    assert await refused(gateway, agent["api_key"], watch="nobody") == (422, "invalid")
    assert await refused(gateway, agent["api_key"], path="/api/messages") == (404, "not_found")
    async with talking(gateway, OPERATOR_KEY, agent_id="puller") as socket:
        assert (await socket.next())["agent_id"] == agent["id"]


async def test_a_browser_shows_its_key_as_a_subprotocol(gateway: Running, register: Register) -> None:
    agent = await register("puller")
    bearer = f"bearer.{agent['api_key']}"
    async with talking(gateway, None, subprotocols=[bearer, "agent-broker"]) as socket:
        assert socket.connection.subprotocol == "agent-broker"
        assert (await socket.next())["agent_id"] == agent["id"]
    async with talking(gateway, None, subprotocols=[bearer]) as socket:
        assert socket.connection.subprotocol == bearer
    assert await refused(gateway, None, subprotocols=["bearer.no"]) == (401, "unauthenticated")


async def test_a_gateway_with_all_the_sessions_it_may_have_says_when_to_try_again(
    gateway: Running, register: Register
) -> None:
    one, other = await register("one"), await register("other")
    gateway.services.realtime.limit = 1
    async with talking(gateway, one["api_key"]) as socket:
        await socket.next()
        with pytest.raises(InvalidStatus) as caught:
            async with talking(gateway, other["api_key"]):
                pass
        assert caught.value.response.status_code == 503
        assert caught.value.response.headers["Retry-After"]
        async with talking(gateway, one["api_key"]) as newer:
            assert (await newer.next())["type"] == "hello"
