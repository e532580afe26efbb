"""Batches, lists and statuses over HTTP."""

import json
from typing import Any

import httpx
import pytest
from gateway_rig import Register, calling
from msgspec import Raw
from recording import Recorder, now_ms

from broker.gateway.serve import Running
from schema.codec import encode
from schema.delivery import Attempt, AttemptStatus
from schema.ids import new_id
from schema.ledger import Event, EventKind
from schema.message import Envelope, Status
from schema.times import from_ms


def _ndjson(messages: list[Any]) -> bytes:
    return b"\n".join(m if isinstance(m, bytes) else encode(m) for m in messages) + b"\n\n"


@pytest.mark.parametrize("form", ["array", "ndjson"])
async def test_a_batch_is_accepted_or_refused_message_by_message(
    http: httpx.AsyncClient, register: Register, recorder: Recorder, form: str
) -> None:
    await register("to")
    given = new_id()
    batch = [
        {"to_agent_id": "to", "content": {"n": 1}, "id": given},
        {"to_agent_id": "nobody"},
        {"to_agent_id": "to", "priority": 0, "message_type": ""},
        {"to_agent_id": "to", "content": {"big": "x" * 262_144}},
        "text",
        {"requirements": ["scrape"]},
    ]
    content = encode(batch) if form == "array" else _ndjson(batch)
    reply = await http.post("/api/messages/batch", content=content)
    assert reply.status_code == 200, reply.text
    results = reply.json()["results"]
    assert [result.get("error", {}).get("code") for result in results] == [
        *(None, "unknown_recipient", "invalid", "too_large", "invalid", None),
    ]
    assert results[0] == {"id": given}
    assert {fault["field"] for fault in results[2]["error"]["details"]} == {"priority", "message_type"}


async def test_a_malformed_line_costs_only_itself(http: httpx.AsyncClient, register: Register) -> None:
    await register("to")
    reply = await http.post(
        "/api/messages/batch", content=_ndjson([{"to_agent_id": "to"}, b'{"to_', {"to_agent_id": "to"}])
    )
    codes = [result.get("error", {}).get("code") for result in reply.json()["results"]]
    assert codes == [None, "malformed", None]


@pytest.mark.parametrize(
    ("content", "status"),
    [(b"", 400), (b"[]", 400), (b"[{}", 400), (b"[" * 100_000, 422), (encode([{}] * 1_001), 422)],
    ids=range(5),
)  # fmt: skip
async def test_a_batch_that_is_none_is_refused_whole(
    http: httpx.AsyncClient, content: bytes, status: int
) -> None:
    assert (await http.post("/api/messages/batch", content=content)).status_code == status


async def test_a_thousand_messages_are_recorded(
    gateway: Running, http: httpx.AsyncClient, register: Register, recorder: Recorder
) -> None:
    await register("to")
    reply = await http.post("/api/messages/batch", json=[{"to_agent_id": "to"}] * 1_000)
    ids = [result["id"] for result in reply.json()["results"]]
    assert len(set(ids)) == 1_000
    last = await http.post("/api/messages", json={"to_agent_id": "to"})
    assert (last.status_code, last.json()["status"]) == (201, "pending")
    assert set(ids) < recorder.seen


async def test_messages_are_listed_by_priority_and_age_in_pages(
    gateway: Running, http: httpx.AsyncClient, register: Register, recorder: Recorder
) -> None:
    a, b = await register("a"), await register("b")
    sent = {}
    for number, (priority, sender, recipient, kind) in enumerate(
        [(5, "a", "b", "task"), (1, "a", "b", "status"), (5, "b", "a", "task"), (9, None, "b", "task")]
    ):
        body = {"from_agent_id": sender, "to_agent_id": recipient, "priority": priority, "message_type": kind}
        reply = await http.post("/api/messages", json=body | {"conversation_id": f"c{number % 2}"})
        sent[reply.json()["id"]] = number

    async def listed(query: str, key: str | None = None) -> list[int] | int:
        async with calling(gateway, *([key] if key else [])) as client:
            found, url = [], f"/api/messages?{query}"
            while url:
                reply = await client.get(url)
                if reply.status_code != 200:
                    return reply.status_code
                found += [sent[message["id"]] for message in reply.json()]
                url = reply.links["next"]["url"] if "next" in reply.links else ""
            return found

    assert await listed("limit=1") == [1, 0, 2, 3]
    assert await listed("to_agent_id=b&limit=2") == [1, 0, 3]
    assert await listed("from_agent_id=a&to_agent_id=&message_type=task") == [0]
    assert await listed("conversation_id=c0") == [0, 2]
    assert await listed("status=processed") == []
    assert await listed("to_agent_id=nobody") == 404
    assert await listed("", a["api_key"]) == [2]
    assert await listed("conversation_id=c0", b["api_key"]) == [0, 2]
    assert await listed("from_agent_id=a", a["api_key"]) == [1, 0]
    assert await listed("from_agent_id=a", b["api_key"]) == 403
    assert await listed("from_agent_id=a&to_agent_id=b", b["api_key"]) == [1, 0]


async def test_attempts_are_shown_in_order(
    http: httpx.AsyncClient, register: Register, recorder: Recorder
) -> None:
    to = await register("to")
    message_id, at_ms = new_id(), now_ms()
    envelope = Envelope(id=message_id, to_agent_id=to["id"], created_at=from_ms(at_ms))
    failed = Attempt(
        number=1, status=AttemptStatus.FAILED, attempted_ms=at_ms, response_code=503, response_body="busy"
    )
    good = Attempt(
        number=2, status=AttemptStatus.SUCCESS, attempted_ms=at_ms + 9, duration_ms=7, response_code=200
    )
    common = {"id": message_id, "at_ms": at_ms, "to": to["id"]}
    first = Event(kind=EventKind.ATTEMPTED, attempt=failed, message=Raw(encode(envelope)), **common)
    second = Event(kind=EventKind.SETTLED, attempt=good, status=Status.DELIVERED, **common)
    await recorder.write([first, second])
    attempts = (await http.get(f"/api/messages/{message_id}/attempts")).json()
    assert [(one["attempt"], one["status"], one["response_code"]) for one in attempts] == [
        (1, "failed", 503),
        (2, "success", 200),
    ]
    assert (await http.get(f"/api/messages/{message_id}")).json()["status"] == "delivered"


@pytest.mark.parametrize(
    ("who", "body", "status", "code"),
    [
        ("to", {"status": "processed", "result": {"a": [1]}}, 200, None),
        ("to", {"status": "failed", "reason": "no idea"}, 200, None),
        ("to", {"status": "delivered"}, 200, None),
        ("to", {"status": "cancelled"}, 403, "agent_mismatch"),
        ("from", {"status": "cancelled"}, 200, None),
        ("from", {"status": "processed"}, 403, "agent_mismatch"),
        ("other", {"status": "processed"}, 404, "not_found"),
        ("to", {"status": "pending"}, 422, "invalid"),
        ("to", {"status": "expired"}, 422, "invalid"),
        ("to", {}, 422, "invalid"),
    ],
)
async def test_status_by_the_right_side_only(
    gateway: Running,
    http: httpx.AsyncClient,
    register: Register,
    recorder: Recorder,
    who: str,
    body: dict[str, Any],
    status: int,
    code: str | None,
) -> None:
    agents = {name: await register(name) for name in ("to", "from", "other")}
    message = (await http.post("/api/messages", json={"to_agent_id": "to", "from_agent_id": "from"})).json()
    async with calling(gateway, agents[who]["api_key"]) as client:
        first, again = [
            await client.put(f"/api/messages/{message['id']}/status", json=body) for _ in range(2)
        ]
    assert (first.status_code, again.status_code) == (status, status), first.text
    if code is not None:
        assert first.json()["error"]["code"] == code
        return
    assert first.json() == again.json() == (await http.get(f"/api/messages/{message['id']}")).json()
    assert first.json()["status"] == body["status"]
    assert first.json()["result"] == body.get("result")
    assert first.json()["status_reason"] == body.get("reason")


async def test_what_the_life_cycle_does_not_allow_is_a_conflict(
    http: httpx.AsyncClient, register: Register, recorder: Recorder
) -> None:
    await register("to")
    message = (await http.post("/api/messages", json={"to_agent_id": "to"})).json()
    path = f"/api/messages/{message['id']}/status"
    assert (await http.put(path, json={"status": "processed"})).status_code == 200
    reply = await http.put(path, json={"status": "cancelled"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (409, "illegal_transition")


@pytest.mark.parametrize("message_id", ["x", "0190a0b1-0000-7000-8000-000000000000", "%00"])
async def test_a_message_that_is_not_there_is_404(http: httpx.AsyncClient, message_id: str) -> None:
    for path in ("", "/attempts", "/route"):
        assert (await http.get(f"/api/messages/{message_id}{path}")).status_code == 404
    reply = await http.put(f"/api/messages/{message_id}/status", json={"status": "processed"})
    assert reply.status_code == 404
    assert json.loads(reply.content)["error"]["code"] == "not_found"
