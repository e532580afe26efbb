"""Sending over HTTP: what is refused, what comes back, and what lies on the streams."""

import asyncio
import json
from typing import Any

import httpx
import pytest
from cluster import async_client_of
from gateway_rig import Register, calling
from hypothesis import given
from hypothesis import strategies as st
from recording import Recorder

from broker.gateway.reading import BodyReader, Faults
from broker.gateway.sending import Origin, check_message, envelope_of
from broker.gateway.serve import Running
from broker.streams.keys import Keys
from schema.codec import decode_envelope, encode, requirements_of
from schema.errors import Rejected
from schema.ids import new_id, shard_of
from schema.message import Lane, SendRequest
from schema.times import from_ms


async def ingress(url: str, agent_id: str, lane: Lane) -> list[dict[bytes, bytes]]:
    async with async_client_of(url) as redis:
        return [f for _, f in await redis.xrange(Keys(shard_of(agent_id, 2)).ingress[lane])]


async def test_accepted_means_it_lies_on_the_ingress_stream_as_it_will_be_pushed(
    http: httpx.AsyncClient, register: Register, streams_url: str
) -> None:
    to, sender = await register("to"), await register("from")
    body = {
        "to_agent_id": "to",
        "from_agent_id": "from",
        "conversation_id": "c1",
        "message_type": "task",
        "priority": 3,
        "content": {"requirements": "anything the agents like", "n": 1.50},
        "metadata": None,
        "expires_at": "2099-01-01T02:00:00+02:00",
    }
    reply = await http.post("/api/messages?wait=accepted", json=body)
    assert reply.status_code == 202, reply.text
    message = reply.json()
    assert reply.headers["Location"] == f"/api/messages/{message['id']}"
    assert (message["status"], message["retry_count"], message["result"]) == ("pending", 0, None)
    assert (message["to_agent_id"], message["from_agent_id"]) == (to["id"], sender["id"])
    assert message["expires_at"] == "2099-01-01T00:00:00Z"
    assert "durability" not in message
    ((entry),) = await ingress(streams_url, to["id"], Lane.HIGH)
    envelope = decode_envelope(entry[b"m"])
    assert (envelope.id, envelope.root_id, envelope.hop) == (message["id"], message["id"], 0)
    assert json.loads(bytes(envelope.content)) == body["content"]
    assert b"w" not in entry


async def test_recorded_is_the_default_and_reading_back_works_right_after(
    http: httpx.AsyncClient, register: Register, recorder: Recorder
) -> None:
    await register("to")
    reply = await http.post("/api/messages", json={"to_agent_id": "to", "content": {"a": 1}})
    assert reply.status_code == 201
    shown = await http.get(f"/api/messages/{reply.json()['id']}")
    assert shown.status_code == 200
    assert shown.json() == reply.json()
    assert (await http.get(f"/api/messages/{reply.json()['id']}/attempts")).json() == []
    route = (await http.get(f"/api/messages/{reply.json()['id']}/route")).json()
    assert (route["to_agent_id"], route["route"]) == (reply.json()["to_agent_id"], None)


async def test_a_lost_receipt_costs_only_a_moment(
    http: httpx.AsyncClient, register: Register, recorder: Recorder
) -> None:
    await register("to")
    recorder.tell = False
    reply = await http.post("/api/messages", json={"to_agent_id": "to"})
    assert (await http.get(f"/api/messages/{reply.json()['id']}")).status_code == 200


async def test_running_out_of_time_is_no_error(http: httpx.AsyncClient, register: Register) -> None:
    await register("to")
    reply = await http.post("/api/messages?timeout_ms=30", json={"to_agent_id": "to"})
    assert (reply.status_code, reply.json()["status"]) == (201, "pending")


async def test_waiting_for_processed_ends_when_the_recipient_says_so_on_this_or_another_gateway(
    gateway: Running, http: httpx.AsyncClient, register: Register, recorder: Recorder
) -> None:
    to, message_id = await register("to"), new_id()
    body = {"id": message_id, "to_agent_id": "to", "content": {}}
    sending = asyncio.create_task(http.post("/api/messages?wait=processed&timeout_ms=20000", json=body))
    async with calling(gateway, to["api_key"]) as recipient:
        # Before the row is there, too: the gateway gives the recorder time.
        said = await recipient.put(
            f"/api/messages/{message_id}/status", json={"status": "processed", "result": {"n": [1]}}
        )
    assert said.status_code == 200, said.text
    reply = await sending
    assert (reply.status_code, reply.json()["status"], reply.json()["result"]) == (
        201,
        "processed",
        {"n": [1]},
    )
    assert reply.json()["processed_at"] is not None


async def test_sending_again_under_the_same_id_is_sending_once(
    http: httpx.AsyncClient, register: Register, recorder: Recorder
) -> None:
    await register("to")
    for message_id in (new_id(), "3f2b8a52-6a5e-4a44-8a51-d1b1b86ee0fb"):
        body = {"id": message_id.upper(), "to_agent_id": "to", "content": {}}
        first, second = [(await http.post("/api/messages", json=body)).json() for _ in range(2)]
        assert first == second
        assert first["id"] == message_id


async def test_an_id_of_somebody_elses_message_is_a_conflict(
    gateway: Running, http: httpx.AsyncClient, register: Register, recorder: Recorder
) -> None:
    await register("to")
    other = await register("other")
    body = {"id": new_id(), "to_agent_id": "to"}
    await http.post("/api/messages", json=body)
    async with calling(gateway, other["api_key"]) as stranger:
        reply = await stranger.post("/api/messages?timeout_ms=15000", json=body)
    assert (reply.status_code, reply.json()["error"]["code"]) == (409, "conflict")


async def test_an_answer_inherits_root_and_hop(
    http: httpx.AsyncClient, register: Register, recorder: Recorder
) -> None:
    await register("to")
    first = (await http.post("/api/messages", json={"to_agent_id": "to"})).json()
    second = (await http.post("/api/messages", json={"to_agent_id": "to", "reply_to": first["id"]})).json()
    third = (await http.post("/api/messages", json={"to_agent_id": "to", "reply_to": second["id"]})).json()
    assert [(m["root_id"], m["hop"]) for m in (first, second, third)] == [
        (first["id"], 0),
        (first["id"], 1),
        (first["id"], 2),
    ]


async def test_capabilities_are_lifted_out_of_the_content(
    http: httpx.AsyncClient, register: Register, streams_url: str
) -> None:
    body = {"content": {"requirements": ["scrape", "honda", "scrape"]}}
    reply = await http.post("/api/messages?wait=accepted", json=body)
    assert (reply.status_code, reply.json()["to_agent_id"]) == (202, None)
    ((entry),) = await ingress(streams_url, reply.json()["id"], Lane.NORMAL)
    assert decode_envelope(entry[b"m"]).requirements == ["scrape", "honda"]


_ID = "0190a0b1-0000-7000-8000-000000000000"


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"to_agent_id"}),
        ({"content": {"requirements": []}}, {"to_agent_id"}),
        ({"content": {"requirements": "scrape"}}, {"to_agent_id"}),
        ({"requirements": ["x"] * 33}, {"requirements"}),
        ({"requirements": ["ok", ""]}, {"requirements[1]"}),
        ({"to_agent_id": "to", "priority": 0}, {"priority"}),
        ({"to_agent_id": "to", "priority": 11}, {"priority"}),
        ({"to_agent_id": "to", "priority": "3"}, {"priority"}),
        ({"to_agent_id": "to", "message_type": "x" * 65}, {"message_type"}),
        ({"to_agent_id": "to", "content": [1]}, {"content"}),
        ({"to_agent_id": "to", "content": None}, {"content"}),
        ({"to_agent_id": "to", "metadata": "x"}, {"metadata"}),
        ({"to_agent_id": "to", "metadata": {"retry_policy": "often"}}, {"metadata"}),
        ({"to_agent_id": "to", "metadata": {"max_retries": -1, "timeout": 0}}, None),
        ({"to_agent_id": "to", "id": "7"}, {"id"}),
        ({"to_agent_id": "to", "reply_to": "7"}, {"reply_to"}),
        ({"to_agent_id": "to", "expires_at": "soon"}, {"expires_at"}),
        ({"to_agent_id": "to", "expires_at": "9999-12-31T23:59:59-10:00"}, {"expires_at"}),
        ({"to_agent_id": "to", "conversation_id": "x" * 129}, {"conversation_id"}),
        ({"priority": 99, "content": 1, "message_type": "", "id": 5, "deliver_at": "x"},
         {"priority", "content", "message_type", "id", "deliver_at", "to_agent_id"}),
    ],
)  # fmt: skip
def test_a_bad_message_names_every_field_at_once(body: dict[str, Any], fields: set[str] | None) -> None:
    with pytest.raises(Rejected) as caught:
        BodyReader(SendRequest, check_message).read(encode(body))
    assert {fault.field for fault in caught.value.faults} == (
        fields or {"metadata.max_retries", "metadata.timeout"}
    )


@pytest.mark.parametrize(
    ("raw", "status", "says"),
    [
        (b"", 400, "empty"),
        (b"{", 400, "not JSON"),
        (b'{"content": {"a": NaN}}', 400, "not JSON"),
        (b'{"content": {"a": "\xff"}}', 400, "UTF-8"),
        (b"[]", 422, "object"),
        (rb'{"to_agent_id": "to", "content": {"a": "\u0000"}}', 422, "NUL"),
        (rb'{"to_agent_id": "to", "content": {"a": "\ud800"}}', 422, "surrogate"),
        (b'{"to_agent_id": "to", "content": {"a": 1e999}}', 422, "out of range"),
        (b'{"to_agent_id": "to", "content": {"a": ' + b"[" * 40 + b"]" * 40 + b"}}", 422, "deeper"),
        (b'{"to_agent_id": "to", "content": ' + b'{"a":' * 40_000, 422, "deeper"),
        (b'{"to_agent_id": "to", "content": {"a": "' + b"x" * 262_144 + b'"}}', 413, "at most"),
    ],
    ids=range(11),
)
async def test_a_body_nobody_can_use_is_refused(
    http: httpx.AsyncClient, register: Register, raw: bytes, status: int, says: str
) -> None:
    await register("to")
    reply = await http.post("/api/messages", content=raw)
    assert reply.status_code == status
    assert says in reply.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "status", "code", "field"),
    [
        ("", {"to_agent_id": "nobody"}, 422, "unknown_recipient", "to_agent_id"),
        ("", {"to_agent_id": _ID}, 422, "unknown_recipient", "to_agent_id"),
        ("", {"to_agent_id": "to", "from_agent_id": "nobody"}, 422, "invalid", "from_agent_id"),
        ("", {"to_agent_id": "to", "deliver_at": "2999-01-01T00:00:00Z"}, 422, "invalid", "deliver_at"),
        ("?wait=forever", {"to_agent_id": "to"}, 422, "invalid", "wait"),
        ("?timeout_ms=60001", {"to_agent_id": "to"}, 422, "invalid", "timeout_ms"),
        ("?timeout_ms=-1", {"to_agent_id": "to"}, 422, "invalid", "timeout_ms"),
    ],
)
async def test_a_refused_message_says_why(
    http: httpx.AsyncClient, register: Register, path: str, body: Any, status: int, code: str, field: str
) -> None:
    await register("to")
    error = await http.post(f"/api/messages{path}", json=body)
    assert error.status_code == status
    assert (error.json()["error"]["code"], error.json()["error"]["field"]) == (code, field)


_TEXT = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=80)
_REQUESTS = st.fixed_dictionaries(
    {"content": st.dictionaries(_TEXT, st.integers(-9, 9) | _TEXT, max_size=3)},
    optional={
        "id": st.uuids().map(str),
        "to_agent_id": st.uuids().map(str),
        "conversation_id": _TEXT,
        "message_type": _TEXT,
        "priority": st.integers(0, 11),
        "metadata": st.none() | st.dictionaries(_TEXT, _TEXT, max_size=2),
        "requirements": st.lists(_TEXT, max_size=3),
        "expires_at": st.datetimes(timezones=st.timezones()).map(lambda t: t.isoformat()),
        "deliver_at": st.datetimes().map(lambda t: t.isoformat()),
        "reply_to": st.uuids().map(str),
    },
)


@given(_REQUESTS)
def test_what_the_gateway_accepts_no_router_finds_malformed(body: dict[str, Any]) -> None:
    try:
        request = BodyReader(SendRequest, check_message).read(encode(body))
    except Rejected:
        return
    now = from_ms(1_800_000_000_000)
    origin = Origin(id=new_id(), from_agent_id=None, to_agent_id=request.to_agent_id, now=now)
    envelope = envelope_of(request, origin)
    assert decode_envelope(encode(envelope)) == envelope
    assert envelope.to_agent_id or requirements_of(envelope)


def test_faults_of_one_field_are_told_once() -> None:
    faults = Faults()
    faults.add("a", "first")
    faults.add("a", "second")
    with pytest.raises(Rejected, match="a: first"):
        faults.raise_if_any()
