"""Requests made to hurt: each is refused in the one shape of errors, none costs a 500 or much memory."""

import asyncio
import json
from base64 import urlsafe_b64encode
from typing import Any

import httpx
import pytest
from gateway_rig import Register, calling
from realtime_rig import until

from broker.gateway import batch
from broker.gateway.serve import Running
from schema import limits
from schema.errors import BrokerError

NIL = "00000000-0000-7000-8000-000000000000"
DEEP = b"[" * 20_000
LAST_MOMENT = "9999-12-31T23:59:59.999999Z"


def cursor(position: bytes) -> str:
    return urlsafe_b64encode(position).decode().rstrip("=")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b'{"to_agent_id":' + b"[" * 5_000 + b"]" * 5_000 + b"}", 422),
        (b'{"to_agent_id":5,"content":' + b'{"a":' * 5_000 + b"1" + b"}" * 5_001, 422),
        (b'{"priority":"x","content":' + DEEP, 422),
        (b'{"priority":"x",}', 400),
        (b'{"priority":"x","content":{"a":\xff}}', 400),
        (b'{"priority":"x","to_agent_id":"\xff"}', 400),
        (b'{"priority":"x","to_agent_id":"\\ud800"}', 422),
        (b'{"priority":"x"} and more', 400),
    ],
)
async def test_a_body_that_is_wrong_twice_is_refused_not_failed(
    http: httpx.AsyncClient, body: bytes, status: int
) -> None:
    for path in ("/api/messages", "/api/v1/messaging/work-order?from_agent_id=a", "/api/agents"):
        reply = await http.post(path, content=body)
        assert (path, reply.status_code) == (path, status), reply.text
    (result,) = (
        (await http.post("/api/messages/batch", content=b"[" + body + b"]"))
        .json()
        .get("results", [{"error": {"code": "whole"}}])
    )
    assert result["error"]["code"] != "internal"


@pytest.mark.parametrize(
    "position",
    [
        b'[1,"2026-01-01T00:00:00Z","' + NIL.encode() + b'",' + DEEP,
        b'["2026-01-01T00:00:00Z","' + NIL.encode() + b'",' + DEEP,
        DEEP,
        b'"\\u0000"',
        b'"no id"',
        b'[1,"2026-01-01T00:00:00","no id"]',
        b"[" + b"9" * 40 + b',"2026-01-01T00:00:00Z","' + NIL.encode() + b'"]',
        b'["0001-01-01T00:00:00+23:59","' + NIL.encode() + b'"]',
        b'[1,"9999-12-31T23:59:59.999999-23:59","' + NIL.encode() + b'"]',
    ],
)
async def test_a_cursor_made_by_hand_is_refused(
    http: httpx.AsyncClient, register: Register, position: bytes
) -> None:
    await register("a")
    base = "/api/v1/messaging"
    for path in (
        *("/api/agents", "/api/messages", "/api/messages?to_agent_id=a", "/api/dead-letters"),
        *(f"{base}/inbox?agent_id=a", f"{base}/contacts?agent_id=a", f"{base}/work-orders?agent_id=a"),
    ):
        reply = await http.get(path, params={**httpx.URL(path).params, "cursor": cursor(position)})
        assert (path, reply.status_code) == (path, 422), reply.text


async def test_the_last_moment_of_the_calendar_is_a_time_like_any_other(
    http: httpx.AsyncClient, register: Register
) -> None:
    await register("a")
    await register("b")
    asked = {"to_agent_id": "b", "subject": "hello"}
    await http.post("/api/v1/messaging/send?from_agent_id=a", json=asked)
    for method, path, body in (
        ("POST", "/api/agents/a/keys", {"expires_at": LAST_MOMENT}),
        ("GET", "/api/agents/a/keys", None),
        (
            "POST",
            "/api/v1/messaging/contacts/a/respond?agent_id=b",
            {"action": "accept", "expires_at": LAST_MOMENT},
        ),
        ("GET", "/api/v1/messaging/contacts?agent_id=b", None),
        (
            "POST",
            "/api/v1/messaging/work-order?from_agent_id=a",
            {"to_agent_id": "b", "title": "t", "deadline_at": LAST_MOMENT},
        ),
        ("POST", "/api/messages?wait=accepted", {"to_agent_id": "b", "expires_at": LAST_MOMENT}),
    ):
        reply = await http.request(method, path, json=body)
        assert reply.is_success, (path, reply.text)


async def test_an_event_id_in_other_digits_is_none(http: httpx.AsyncClient, register: Register) -> None:
    await register("a")
    query = {"agent_id": "a", "last_event_id": "\u0663-\u0660,0,0"}
    reply = await http.get("/api/v1/messaging/stream", params=query, timeout=5)
    assert reply.status_code == 422, reply.text


@pytest.mark.parametrize(
    "body",
    [
        b"[" + b"0," * 2_000 + b"0]",
        b"0\n" * 2_000,
        b"\n" * 1_000 + b"{}\r" * 1_001,
        b'["],[",' * 9 + b"[" + b"{}," * 1_001,
    ],
)
def test_a_batch_is_counted_before_it_is_taken_apart(body: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Millions of tiny elements would cost half a gigabyte."""
    monkeypatch.setattr(batch, "COMMAS_TRUSTED_MAX", 10)
    with pytest.raises(BrokerError):
        batch._split(body)


def test_a_batch_of_many_commas_is_taken_when_they_are_inside_its_messages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batch, "COMMAS_TRUSTED_MAX", 10)
    messages = [
        {"content": {"v": list(range(50)), "t": 'a,"[,{\\'}} for _ in range(limits.BATCH_MESSAGES_MAX)
    ]
    assert [json.loads(part) for part in batch._split(json.dumps(messages).encode())] == messages


async def test_a_connection_that_says_nothing_is_closed(
    http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "BODY_RECEIVE_MS_MAX", 50)
    reader, writer = await asyncio.open_connection("127.0.0.1", http.base_url.port)
    async with asyncio.timeout(10):
        await reader.read()
    writer.close()


async def test_one_agents_polls_do_not_use_up_the_room_of_the_others(
    gateway: Running, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent: Any = await register("a")
    monkeypatch.setattr(limits, "INBOX_WAITERS_PER_AGENT_MAX", 2)
    arrivals = gateway.services.arrivals
    async with calling(gateway, agent["api_key"]) as own:
        poll = "/api/v1/messaging/inbox?wait_ms=30000"
        async with asyncio.TaskGroup() as group:
            waiting = [group.create_task(own.get(poll)) for _ in range(2)]
            await until(lambda: len(arrivals) == 2)
            async with asyncio.timeout(10):
                assert (await own.get(poll)).status_code == 200
            assert not any(task.done() for task in waiting)
            arrivals.release_all()
