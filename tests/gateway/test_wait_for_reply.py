"""`wait=reply`: the message comes back with its reply, however and wherever that was recorded; and replies
stay in the conversation of what they answer."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from gateway_rig import Register, calling
from ledger_events import envelope, settled, succeeded
from msgspec import Raw
from recording import Recorder, now_ms

from broker.gateway import publishing, reply_waiting
from broker.gateway.reply_waiting import Question, wait_for_reply
from broker.gateway.serve import Running
from broker.gateway.waiting import ReplyWaiter
from schema.codec import decode_receipts, encode
from schema.ids import new_id
from schema.ledger import Event, EventKind, Receipt
from schema.message import Status

INBOX = "/api/v1/messaging/inbox"
PATIENCE_S = 20
PATIENT_MS = 15_000

Ask = Callable[..., "asyncio.Task[httpx.Response]"]


@pytest.fixture
def ask(http: httpx.AsyncClient, register: Register, recorder: Recorder) -> Ask:
    """Return a function that begins to send a message to `b` and to wait for its reply."""

    def begin(sender: str | None = "a", *, timeout_ms: int = PATIENT_MS, **more: Any) -> Any:
        body = {"to_agent_id": "b", "from_agent_id": sender, "content": {"q": 1}, **more}
        query = {"wait": "reply", "timeout_ms": timeout_ms}
        return asyncio.create_task(http.post("/api/messages", params=query, json=body))

    return begin


async def asked(http: httpx.AsyncClient, agent: str = "b") -> str:
    """Return the id of the message in an inbox, as soon as there is one."""
    inbox = (await http.get(INBOX, params={"agent_id": agent, "wait_ms": PATIENT_MS})).json()
    (message,) = inbox["messages"]
    return message["message_id"]


async def outcome(task: "asyncio.Task[httpx.Response]") -> dict[str, Any]:
    reply = await asyncio.wait_for(task, PATIENCE_S)
    assert reply.status_code == 201, reply.text
    return reply.json()


def ended(message_id: str, status: Status, **fields: Any) -> Event:
    return Event(kind=EventKind.SETTLED, id=message_id, at_ms=now_ms(), status=status, **fields)


async def test_the_reply_comes_back_with_the_message_and_not_again_in_the_inbox(
    http: httpx.AsyncClient, register: Register, ask: Ask
) -> None:
    a, b = await register("a"), await register("b")
    task = ask(conversation_id="c")
    question = await asked(http)
    answer = {"to_agent_id": "a", "from_agent_id": "b", "reply_to": question, "content": {"n": 42}}
    sent = (await http.post("/api/messages", json=answer)).json()
    message = await outcome(task)
    reply = message["reply"]
    assert (message["id"], message["content"]) == (question, {"q": 1})
    assert (reply["id"], reply["content"], reply["reply_to"]) == (sent["id"], {"n": 42}, question)
    assert (reply["from_agent_id"], reply["to_agent_id"]) == (b["id"], a["id"])
    assert (reply["conversation_id"], reply["hop"], reply["root_id"]) == ("c", 1, question)
    assert reply["status"] == "delivered"
    inbox = (await http.get(INBOX, params={"agent_id": "a"})).json()
    assert inbox["total_messages"] == 0


async def test_a_sender_with_an_endpoint_gets_its_reply_pushed_as_well(
    http: httpx.AsyncClient, register: Register, ask: Ask
) -> None:
    await register("a", endpoint="http://127.0.0.1:9/hook"), await register("b")
    task = ask()
    answer = {"to_agent_id": "a", "from_agent_id": "b", "reply_to": await asked(http)}
    await http.post("/api/messages", json=answer)
    assert (await outcome(task))["reply"]["status"] == "pending"


async def test_a_reply_of_another_shard_found_without_any_word_is_a_reply(
    http: httpx.AsyncClient, register: Register, recorder: Recorder, ask: Ask
) -> None:
    a, b = await register("a"), await register("b")
    task = ask()
    question = await asked(http)
    recorder.tell = False
    natively = envelope(to_agent_id=a["id"], from_agent_id=b["id"], reply_to=question)
    await recorder.write([settled(natively, kind=EventKind.ROUTED, status=Status.PENDING, attempt=None)])
    assert (await outcome(task))["reply"]["id"] == natively.id


@pytest.mark.parametrize(
    ("status", "fields", "shown"),
    [
        (Status.PROCESSED, {"result": Raw(b'{"n":1}')}, {"result": {"n": 1}}),
        (Status.FAILED, {"reason": "exhausted"}, {"status_reason": "exhausted"}),
        (Status.EXPIRED, {"reason": "expired"}, {"status_reason": "expired"}),
        (Status.CANCELLED, {}, {}),
    ],
)
async def test_a_message_that_ends_unanswered_says_so(
    http: httpx.AsyncClient,
    register: Register,
    recorder: Recorder,
    ask: Ask,
    status: Status,
    fields: dict[str, Any],
    shown: dict[str, Any],
) -> None:
    await register("a"), await register("b")
    task = ask()
    question = await asked(http)
    # A bounce answers nothing, though it names what it is about.
    bounce = envelope(
        to_agent_id=(await http.get("/api/agents/a")).json()["id"],
        reply_to=question,
        message_type="error",
        metadata=Raw(b'{"automatic":true}'),
    )
    routed = settled(bounce, kind=EventKind.ROUTED, status=Status.PENDING, attempt=None)
    await recorder.write([routed, ended(question, status, **fields)])
    message = await outcome(task)
    assert (message["status"], message["reply"]) == (status.value, None)
    assert {name: message[name] for name in shown} == shown


async def test_running_out_of_time_is_no_error(http: httpx.AsyncClient, register: Register, ask: Ask) -> None:
    await register("a"), await register("b")
    message = await outcome(ask(timeout_ms=200))
    assert (message["status"], message["reply"]) == ("pending", None)


async def test_other_waits_say_nothing_of_replies(
    http: httpx.AsyncClient, register: Register, recorder: Recorder
) -> None:
    await register("b")
    sent = await http.post("/api/messages", json={"to_agent_id": "b"})
    assert "reply" not in sent.json()


async def test_what_a_stranger_says_is_no_reply(
    http: httpx.AsyncClient, register: Register, recorder: Recorder, ask: Ask
) -> None:
    a, b, c = await register("a"), await register("b"), await register("c")
    known, unknown = ask("a"), ask(None)
    inbox = []
    while len(inbox) < 2:
        inbox = (await http.get(INBOX, params={"agent_id": "b", "wait_ms": PATIENT_MS})).json()["messages"]
    (to_a,) = [m["message_id"] for m in inbox if m["from_agent"] is not None]
    (to_nobody,) = [m["message_id"] for m in inbox if m["from_agent"] is None]
    forged = [
        envelope(to_agent_id=c["id"], from_agent_id=b["id"], reply_to=to_a),
        envelope(to_agent_id=a["id"], from_agent_id=c["id"], reply_to=to_nobody),
    ]
    routed = {"kind": EventKind.ROUTED, "status": Status.PENDING, "attempt": None}
    await recorder.write([settled(one, **routed) for one in forged])
    real = [
        envelope(to_agent_id=a["id"], from_agent_id=b["id"], reply_to=to_a),
        envelope(to_agent_id=a["id"], from_agent_id=b["id"], reply_to=to_nobody),
    ]
    await recorder.write([settled(one, **routed) for one in real])
    assert [(await outcome(task))["reply"]["id"] for task in (known, unknown)] == [one.id for one in real]


async def test_a_reply_that_stands_in_the_result_ends_the_wait(
    http: httpx.AsyncClient, register: Register, recorder: Recorder, ask: Ask
) -> None:
    """A push to an agent that replies to a message of nobody in particular."""
    await register("b")
    task = ask(None)
    question = await asked(http)
    await recorder.write(
        [ended(question, Status.DELIVERED, result=Raw(b'{"n":1}'), attempt=succeeded(1, now_ms()))]
    )
    message = await outcome(task)
    assert (message["status"], message["result"], message["reply"]) == ("delivered", {"n": 1}, None)


@pytest.mark.parametrize(
    ("body", "is_waited_for"),
    [
        ('{"status":"processed","reply":{"n":1}}', True),
        ('{"status":"processed","reply":{"n":"' + "x" * 5_000, True),
        ('{"status":"processed","reply":null}', False),
        ('{"status":"processed"}', False),
        ("", False),
    ],
)
async def test_a_reply_announced_in_the_answer_to_a_push_is_waited_for(
    gateway: Running,
    http: httpx.AsyncClient,
    register: Register,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
    body: str,
    is_waited_for: bool,
) -> None:
    """The record of the reply may be behind that of the message by as much as its shard's recorder is."""
    monkeypatch.setattr(reply_waiting, "GRACE_MS", 0)
    a, b = (await register("a"))["id"], (await register("b"))["id"]
    asked_about = envelope(to_agent_id=b, from_agent_id=a)
    attempt = succeeded(1, now_ms())
    attempt.response_body = body[:4096]
    await recorder.write([settled(asked_about, status=Status.PROCESSED, attempt=attempt)])
    waiter = ReplyWaiter(asked_about.id)
    waiter.hear(Receipt(asked_about.id, "recorded"))
    task = asyncio.create_task(
        wait_for_reply(
            gateway.services,
            waiter,
            Question(asked_about.id, a, now_ms()),
            timeout_ms=PATIENT_MS,
            clock=time.monotonic,
            is_gone=lambda: False,
        )
    )
    if not is_waited_for:
        assert (await asyncio.wait_for(task, PATIENCE_S)).reply is None
        return
    while waiter._changed.is_set():  # noqa: ASYNC110  # it has looked once
        await asyncio.sleep(0.005)
    reply = envelope(to_agent_id=a, from_agent_id=b, reply_to=asked_about.id)
    await recorder.write([settled(reply, kind=EventKind.ROUTED, status=Status.PENDING, attempt=None)])
    waiter.hear(Receipt(asked_about.id, "replied", reply.id))
    answer = await asyncio.wait_for(task, PATIENCE_S)
    assert answer.reply is not None
    assert answer.reply.id == reply.id


async def test_asking_again_under_the_same_id_brings_the_same_reply(
    http: httpx.AsyncClient, register: Register, recorder: Recorder, ask: Ask
) -> None:
    a, b = await register("a"), await register("b")
    old = envelope(
        "01900000-0000-7000-8000-000000000001",
        to_agent_id=b["id"],
        from_agent_id=a["id"],
        created_at=datetime.now(UTC) - timedelta(minutes=1),
    )
    reply = envelope(to_agent_id=a["id"], from_agent_id=b["id"], reply_to=old.id)
    await recorder.write([settled(old), settled(reply)])
    assert [(await outcome(ask(id=old.id)))["reply"]["id"] for _ in range(2)] == [reply.id] * 2


async def test_a_draining_gateway_lets_go_of_who_waits_for_a_reply(
    gateway: Running, http: httpx.AsyncClient, register: Register, ask: Ask
) -> None:
    await register("a"), await register("b")
    task = ask()
    await asked(http)
    gateway.stop.set()
    assert (await outcome(task))["reply"] is None


# --- conversations ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "kept"), [({}, "c"), ({"conversation_id": None}, "c"), ({"conversation_id": "other"}, "other")]
)
async def test_a_reply_stays_in_its_conversation_unless_it_says_otherwise(
    http: httpx.AsyncClient, register: Register, recorder: Recorder, given: dict[str, Any], kept: str
) -> None:
    await register("a"), await register("b")
    first = {"to_agent_id": "b", "from_agent_id": "a", "conversation_id": "c"}
    question = (await http.post("/api/messages", json=first)).json()["id"]
    for sender in ("b", None):
        answer = {"to_agent_id": "a", "from_agent_id": sender, "reply_to": question.upper(), **given}
        reply = (await http.post("/api/messages", json=answer)).json()
        assert (reply["conversation_id"], reply["hop"]) == (kept, 1)


async def test_a_stranger_learns_no_conversation_from_an_id(
    http: httpx.AsyncClient, register: Register, recorder: Recorder
) -> None:
    for name in ("a", "b", "c"):
        await register(name)
    first = {"to_agent_id": "b", "from_agent_id": "a", "conversation_id": "c"}
    question = (await http.post("/api/messages", json=first)).json()["id"]
    said = {"to_agent_id": "b", "from_agent_id": "c", "reply_to": question}
    assert (await http.post("/api/messages", json=said)).json()["conversation_id"] is None


async def test_an_answer_that_overtakes_the_record_of_its_question_still_inherits(
    gateway: Running,
    http: httpx.AsyncClient,
    register: Register,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(publishing, "ANSWERED_ROW_WAIT_MS", PATIENT_MS)
    a, b = (await register("a"))["id"], (await register("b"))["id"]
    question = envelope(to_agent_id=b, from_agent_id=a, conversation_id="c", hop=2)
    body = {"to_agent_id": a, "from_agent_id": b, "reply_to": question.id}
    looked = asyncio.Event()
    services = gateway.services
    get = services.pool.connection

    def noticed() -> Any:
        looked.set()
        return get()

    services.pool.connection = noticed  # type: ignore[method-assign]  # to know when it has looked in vain
    answering = asyncio.create_task(http.post("/api/messages", json=body))
    await asyncio.wait_for(looked.wait(), PATIENCE_S)
    await recorder.write([settled(question)])
    reply = (await asyncio.wait_for(answering, PATIENCE_S)).json()
    assert (reply["conversation_id"], reply["hop"]) == ("c", 3)


async def test_an_agent_sees_both_directions_of_its_conversation_and_nothing_else_of_it(
    gateway: Running, http: httpx.AsyncClient, register: Register, recorder: Recorder
) -> None:
    agents = {name: await register(name) for name in ("a", "b", "x")}
    pairs = [("a", "b", 5), ("b", "a", 5), ("a", "x", 1), ("x", "b", 9), (None, "a", 3)]
    ids = []
    for sender, to, priority in pairs:
        body = {"from_agent_id": sender, "to_agent_id": to, "priority": priority, "conversation_id": "c"}
        ids.append((await http.post("/api/messages", json=body)).json()["id"])
    other = {"from_agent_id": "a", "to_agent_id": "b", "conversation_id": "other"}
    await http.post("/api/messages", json=other)

    async def seen(agent: str | None, query: str) -> list[int]:
        found: list[int] = []
        url = f"/api/messages?conversation_id=c&{query}"
        async with calling(gateway, *([agents[agent]["api_key"]] if agent else [])) as client:
            while url:
                reply = await client.get(url)
                assert reply.status_code == 200, reply.text
                found += [ids.index(message["id"]) for message in reply.json()]
                url = reply.links["next"]["url"] if "next" in reply.links else ""
        return found

    for limit in ("limit=1", "limit=100"):
        assert await seen("a", limit) == [2, 4, 0, 1]
        assert await seen("b", limit) == [0, 1, 3]
        assert await seen("x", limit) == [2, 3]
        assert await seen(None, limit) == [2, 4, 0, 1, 3]
    assert await seen("a", "to_agent_id=a") == [4, 1]
    assert await seen("a", "from_agent_id=a") == [2, 0]


# --- the word ---------------------------------------------------------------------------------------------


def test_receipts_of_an_earlier_release_are_still_read() -> None:
    old = encode([[new_id(), "recorded"]])
    (receipt,) = decode_receipts(old)
    assert (receipt.rung, receipt.by) == ("recorded", None)
    new = Receipt(new_id(), "replied", new_id())
    assert decode_receipts(encode([new])) == [new]


async def test_a_reply_whose_asker_has_hung_up_stays_in_its_inbox(
    gateway: Running, http: httpx.AsyncClient, register: Register, recorder: Recorder
) -> None:
    await register("a")
    await register("b")
    body = {"to_agent_id": "b", "from_agent_id": "a"}
    async with calling(gateway) as impatient:
        query = {"wait": "reply", "timeout_ms": PATIENT_MS}
        task = asyncio.create_task(impatient.post("/api/messages", params=query, json=body))
        question = await asked(http)
        task.cancel()
        await asyncio.wait((task,))
    answer = {"to_agent_id": "a", "from_agent_id": "b", "reply_to": question}
    sent = (await http.post("/api/messages", json=answer)).json()
    async with asyncio.timeout(PATIENCE_S):
        while len(gateway.services.waiters):  # noqa: ASYNC110  # nothing to wait on
            await asyncio.sleep(0.01)
    assert await asked(http, "a") == sent["id"]
