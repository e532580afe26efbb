"""The inbox over HTTP: what it shows, to whom, page by page, and waiting for something to arrive."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from cluster import async_client_of
from gateway_rig import Register, calling
from ledger_events import envelope, settled
from recording import Recorder

from broker.gateway.coordination.arrivals import Arrivals
from broker.gateway.serve import Running
from broker.streams.keys import RECORDED, Keys
from schema import limits
from schema.codec import encode
from schema.ids import new_id, shard_of
from schema.ledger import Event, EventKind
from schema.message import Envelope, Status, lane_of

INBOX = "/api/v1/messaging/inbox"
READ = "/api/v1/messaging/mark-read"
PATIENCE_S = 20


def pending(message: Envelope, **fields: Any) -> Event:
    given = {"kind": EventKind.ROUTED, "status": Status.PENDING, "attempt": None}
    return settled(message, **(given | fields))


async def send(http: httpx.AsyncClient, to: str = "to", **more: Any) -> dict[str, Any]:
    reply = await http.post("/api/messages", json={"to_agent_id": to, **more})
    assert reply.status_code == 201, reply.text
    return reply.json()


async def shown(http: httpx.AsyncClient, **query: Any) -> dict[str, Any]:
    reply = await http.get(INBOX, params={"agent_id": "to", **query})
    assert reply.status_code == 200, reply.text
    return reply.json()


def ids(inbox: dict[str, Any]) -> list[str]:
    return [message["message_id"] for message in inbox["messages"]]


async def waiting(gateway: Running, count: int) -> None:
    """Return when so many polls wait."""
    async with asyncio.timeout(PATIENCE_S):
        while len(gateway.services.arrivals) != count:  # noqa: ASYNC110  # polls tell nobody
            await asyncio.sleep(0.005)


async def test_a_message_is_shown_with_its_sender_and_what_it_says(
    http: httpx.AsyncClient, register: Register, recorder: Recorder
) -> None:
    to, sender = await register("to"), await register("from")
    sent = await send(
        http,
        from_agent_id="from",
        message_type="question",
        priority=2,
        conversation_id="c1",
        content={"subject": "Lunch?", "body": 'At \u00e9 "noon"', "n": 1},
        metadata={"k": "v"},
        expires_at="2099-01-01T00:00:00Z",
    )
    inbox = await shown(http)
    assert (inbox["agent_id"], inbox["total_messages"], inbox["total_is_lower_bound"]) == (to["id"], 1, False)
    assert inbox["next_cursor"] is None
    assert inbox["messages"] == [
        {
            "message_id": sent["id"],
            "from_agent": {"id": sender["id"], "name": "from"},
            "type": "question",
            "subject": "Lunch?",
            "body": 'At \u00e9 "noon"',
            "priority": 2,
            "content": {"subject": "Lunch?", "body": 'At \u00e9 "noon"', "n": 1},
            "created_at": sent["created_at"],
            "status": "pending",
            "conversation_id": "c1",
            "reply_to": None,
            "expires_at": "2099-01-01T00:00:00Z",
            "delivered_at": None,
            "metadata": {"k": "v"},
            "hop": 0,
        }
    ]


TEXTS: list[tuple[str, Any, str | None, str | None]] = [
    ("task", {}, None, None),
    ("task", {"subject": 5, "body": ["x"]}, None, None),
    ("task", {"subject": "", "body": None}, "", None),
    ("task", {"message": "hello"}, None, None),
    ("task", {"inner": {"subject": "s"}}, None, None),
    ("ping", {"message": "hello", "body": "no"}, None, "hello"),
    ("ping", {"message": {"not": "text"}}, None, None),
]
"""type, content, subject, body"""


async def test_subject_and_body_are_texts_or_null(
    http: httpx.AsyncClient, register: Register, recorder: Recorder
) -> None:
    await register("to")
    for kind, content, _, _ in TEXTS:
        await send(http, message_type=kind, content=content)
    messages = (await shown(http))["messages"]
    assert [(m["type"], m["content"], m["subject"], m["body"]) for m in messages] == TEXTS
    assert {m["from_agent"] for m in messages} == {None}


async def test_senders_that_are_gone_keep_their_name_and_strangers_have_none(
    gateway: Running, http: httpx.AsyncClient, register: Register, recorder: Recorder
) -> None:
    to, gone, stranger = await register("to"), await register("gone"), new_id()
    await gateway.services.pool.execute("UPDATE agents SET deleted_at = now() WHERE id = $1", gone["id"])
    made = [envelope(to_agent_id=to["id"], from_agent_id=sender) for sender in (gone["id"], stranger)]
    await recorder.write([pending(message) for message in made])
    senders = [message["from_agent"] for message in (await shown(http))["messages"]]
    assert senders == [{"id": gone["id"], "name": "gone"}, {"id": stranger, "name": None}]


async def test_statuses_and_types_choose_what_is_shown(
    http: httpx.AsyncClient, register: Register, recorder: Recorder
) -> None:
    to = (await register("to"))["id"]
    base = datetime.now(UTC)
    made = {}
    for n, status in enumerate((*Status, Status.PENDING)):
        message = envelope(
            to_agent_id=to,
            created_at=base + timedelta(milliseconds=n),
            message_type="ping" if n % 2 else "task",
        )
        made[message.id] = (status.value, message.message_type)
        await recorder.write([pending(message, status=status, kind=EventKind.SETTLED)])
    for status in (None, "all", *(status.value for status in Status)):
        for kind in (None, "ping", "task", "other"):
            query = {name: value for name, value in (("status", status), ("type", kind)) if value}
            wanted = [
                id
                for id, (its_status, its_kind) in made.items()
                if status in ("all", its_status) or (status is None and its_status == "pending")
                if kind in (None, its_kind)
            ]
            inbox = await shown(http, **query)
            assert (ids(inbox), inbox["total_messages"]) == (wanted, len(wanted)), query
            paged = await shown(http, **query, limit=1)
            assert (ids(paged), paged["total_messages"]) == (wanted[:1], len(wanted)), query


async def test_what_has_expired_is_not_pending_though_nobody_has_recorded_it_yet(
    http: httpx.AsyncClient, register: Register, recorder: Recorder
) -> None:
    to, now = (await register("to"))["id"], datetime.now(UTC)
    over = envelope(to_agent_id=to, expires_at=now - timedelta(seconds=1))
    good = envelope(to_agent_id=to, expires_at=now + timedelta(hours=1))
    await recorder.write([pending(over), pending(good)])
    for query in ({}, {"type": "message"}):
        assert (ids(await shown(http, **query)), (await shown(http, **query))["total_messages"]) == (
            [good.id],
            1,
        )
    everything = await shown(http, status="all")
    assert [message["status"] for message in everything["messages"]] == ["expired", "pending"]


async def test_pages_lead_through_the_inbox_by_priority_and_age(
    http: httpx.AsyncClient, register: Register, recorder: Recorder
) -> None:
    to, base = (await register("to"))["id"], datetime.now(UTC)
    made = [
        envelope(to_agent_id=to, priority=1 + n % 4, created_at=base - timedelta(hours=5 * (n % 5)))
        for n in range(23)
    ]
    await recorder.write([pending(message) for message in made])
    for query in ({}, {"status": "all"}, {"type": "message"}):
        found: list[str] = []
        cursor: str | None = None
        while True:
            inbox = await shown(http, limit=4, **query, **({"cursor": cursor} if cursor else {}))
            assert inbox["total_messages"] == 23
            found += ids(inbox)
            cursor = inbox["next_cursor"]
            if cursor is None:
                break
        wanted = sorted(made, key=lambda message: (message.priority, message.created_at, message.id))
        assert found == [message.id for message in wanted]


QUERIES: list[tuple[dict[str, Any], int, str | None]] = [
    ({"limit": 0}, 422, "limit"),
    ({"limit": "x"}, 422, "limit"),
    ({"status": "read"}, 422, "status"),
    ({"wait_ms": -1}, 422, "wait_ms"),
    ({"wait_ms": 30_001}, 422, "wait_ms"),
    ({"cursor": "nonsense"}, 422, "cursor"),
    ({"agent_id": ""}, 422, "agent_id"),
    ({"agent_id": "nobody"}, 404, None),
    ({"limit": 1_000}, 200, None),
    ({"wait_ms": 0}, 200, None),
]
"""query, status of the reply, the field it names"""


async def test_queries_are_checked(http: httpx.AsyncClient, register: Register) -> None:
    await register("to")
    for query, status, field in QUERIES:
        reply = await http.get(INBOX, params={"agent_id": "to", **query})
        named = None if status == 200 else reply.json()["error"].get("field")
        assert (reply.status_code, named) == (status, field), (query, reply.text)


async def test_an_inbox_is_its_agents_and_the_operators(
    gateway: Running, http: httpx.AsyncClient, register: Register, recorder: Recorder
) -> None:
    to, other = await register("to"), await register("other")
    sent = await send(http)
    for reference in (to["id"], to["id"].upper(), "to"):
        assert ids(await shown(http, agent_id=reference)) == [sent["id"]]
    claimed = await http.get(INBOX, headers={"X-Agent-Id": "to"})
    assert ids(claimed.json()) == [sent["id"]]
    async with calling(gateway, to["api_key"]) as own, calling(gateway, other["api_key"]) as foreign:
        for query in ({}, {"agent_id": "to"}, {"agent_id": to["id"]}):
            assert ids((await own.get(INBOX, params=query)).json()) == [sent["id"]]
        refused = await foreign.get(INBOX, params={"agent_id": "to"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "agent_mismatch")
        assert ids((await foreign.get(INBOX)).json()) == []


# --- waiting ----------------------------------------------------------------------------------------------


async def test_a_poll_waits_until_something_of_what_it_asked_for_is_recorded(
    gateway: Running, http: httpx.AsyncClient, register: Register, recorder: Recorder
) -> None:
    await register("to")
    poll = asyncio.create_task(shown(http, type="ping", wait_ms=30_000))
    await waiting(gateway, 1)
    await send(http, message_type="task")
    await waiting(gateway, 1)
    assert not poll.done()
    sent = await send(http, message_type="ping")
    assert ids(await asyncio.wait_for(poll, PATIENCE_S)) == [sent["id"]]
    assert len(gateway.services.arrivals) == 0
    assert ids(await shown(http, type="ping", wait_ms=30_000)) == [sent["id"]]


async def test_a_word_of_record_wakes_at_once_and_a_lost_one_costs_a_moment(
    gateway: Running, http: httpx.AsyncClient, register: Register, recorder: Recorder, streams_url: str
) -> None:
    to = (await register("to"))["id"]
    looks = 0
    found = asyncio.Event()

    async def look() -> bool:
        nonlocal looks
        looks += 1
        return found.is_set()

    arrivals = gateway.services.arrivals
    # The bound on looks by themselves is far beyond the patience of this test: only words wake it.
    poll = asyncio.create_task(arrivals.look(to, look, found=bool, wait_ms=600_000))
    await waiting(gateway, 1)
    async with async_client_of(streams_url) as redis:
        for word in (b"junk", encode([new_id()]), encode([to])):
            await redis.publish(RECORDED, word)
        found.set()
        await redis.publish(RECORDED, encode([new_id(), to]))
        assert await asyncio.wait_for(poll, PATIENCE_S)
    recorder.tell = False
    late = asyncio.create_task(shown(http, wait_ms=30_000))
    await waiting(gateway, 1)
    message = envelope(to_agent_id=to)
    await recorder.write([pending(message)])
    assert ids(await asyncio.wait_for(late, PATIENCE_S)) == [message.id]


async def test_running_out_of_time_is_an_empty_page(http: httpx.AsyncClient, register: Register) -> None:
    await register("to")
    inbox = await shown(http, wait_ms=60)
    assert (inbox["messages"], inbox["total_messages"], inbox["next_cursor"]) == ([], 0, None)


async def test_beyond_the_bound_and_while_draining_nobody_waits() -> None:
    looks = []

    async def look() -> list[str]:
        looks.append(1)
        return []

    arrivals = Arrivals(limit=1)
    first = asyncio.create_task(arrivals.look("a", look, found=bool, wait_ms=600_000))
    while not len(arrivals):  # noqa: ASYNC110  # polls tell nobody
        await asyncio.sleep(0)
    assert await arrivals.look("b", look, found=bool, wait_ms=600_000) == []
    arrivals.release_all()
    assert await asyncio.wait_for(first, PATIENCE_S) == []
    assert await arrivals.look("b", look, found=bool, wait_ms=600_000) == []
    assert len(arrivals) == 0


async def test_a_draining_gateway_answers_its_polls(
    gateway: Running, http: httpx.AsyncClient, register: Register
) -> None:
    await register("to")
    poll = asyncio.create_task(shown(http, wait_ms=30_000))
    await waiting(gateway, 1)
    gateway.stop.set()
    assert ids(await asyncio.wait_for(poll, PATIENCE_S)) == []


async def test_polling_is_a_sign_of_life(
    gateway: Running, http: httpx.AsyncClient, register: Register
) -> None:
    to = await register("to")
    async with calling(gateway, to["api_key"]) as own:
        assert (await own.get(INBOX)).status_code == 200
    await gateway.services.signs_of_life.write_down()
    assert (await http.get(f"/api/agents/{to['id']}")).json()["is_online"] is True
    assert limits.INBOX_WAIT_MS_MAX < limits.ONLINE_MS


# --- mark-read --------------------------------------------------------------------------------------------


async def test_a_message_marked_as_read_is_delivered_and_leaves_the_mailbox(
    gateway: Running, http: httpx.AsyncClient, register: Register, recorder: Recorder, streams_url: str
) -> None:
    to = await register("to")
    message = envelope(to_agent_id=to["id"])
    mailbox = Keys(shard_of(to["id"], 2)).mailbox(to["id"], lane_of(message.priority))
    async with async_client_of(streams_url) as redis:
        entry = (await redis.xadd(mailbox, {"m": encode(message)})).decode()
        await recorder.write([pending(message, mailbox_entry=entry)])
        async with calling(gateway, to["api_key"]) as own:
            first, again = [(await own.post(f"{READ}/{message.id.upper()}")).json() for _ in range(2)]
        assert await redis.xlen(mailbox) == 0
    assert first == again
    assert (first["success"], first["message_id"], first["status"]) == (True, message.id, "delivered")
    view = (await http.get(f"/api/messages/{message.id}")).json()
    assert (view["status"], view["delivered_at"]) == ("delivered", first["read_at"])
    assert ids(await shown(http)) == []
    assert ids(await shown(http, status="delivered")) == [message.id]


async def test_marking_as_read_tells_a_sender_that_waits_for_delivery(
    gateway: Running, http: httpx.AsyncClient, register: Register, recorder: Recorder
) -> None:
    await register("to")
    query = {"wait": "delivered", "timeout_ms": 15_000}
    sending = asyncio.create_task(http.post("/api/messages", params=query, json={"to_agent_id": "to"}))
    (message,) = (await shown(http, wait_ms=15_000))["messages"]
    await http.post(f"{READ}/{message['message_id']}", params={"agent_id": "to"})
    reply = await asyncio.wait_for(sending, PATIENCE_S)
    assert (reply.status_code, reply.json()["status"]) == (201, "delivered")


async def test_what_has_ended_unread_cannot_be_read(
    http: httpx.AsyncClient, register: Register, recorder: Recorder
) -> None:
    to = (await register("to"))["id"]
    for status in (status for status in Status if status is not Status.PENDING):
        message = envelope(to_agent_id=to)
        await recorder.write([pending(message, status=status, kind=EventKind.SETTLED)])
        reply = await http.post(f"{READ}/{message.id}", params={"agent_id": "to"})
        was_read = status in (Status.DELIVERED, Status.PROCESSED)
        assert reply.status_code == (200 if was_read else 409), reply.text
        view = (await http.get(f"/api/messages/{message.id}")).json()
        assert view["status"] == status.value
        if was_read:
            assert reply.json()["read_at"] == (view["delivered_at"] or view["processed_at"])


READERS: list[tuple[str | None, dict[str, str], int, str | None]] = [
    ("to", {"agent_id": "from"}, 403, "agent_mismatch"),
    ("from", {}, 403, "agent_mismatch"),
    ("other", {}, 404, "not_found"),
    (None, {}, 422, "invalid"),
    (None, {"agent_id": "other"}, 404, "not_found"),
    (None, {"agent_id": "nobody"}, 404, "not_found"),
    ("to", {}, 200, None),
    ("to", {"agent_id": "to"}, 200, None),
    (None, {"agent_id": "to"}, 200, None),
]
"""whose key (None: the operator's), query, status of the reply, code of its error"""


async def test_only_the_recipient_reads(
    gateway: Running, http: httpx.AsyncClient, register: Register, recorder: Recorder
) -> None:
    agents = {name: await register(name) for name in ("to", "from", "other")}
    for who, query, status, code in READERS:
        sent = await send(http, from_agent_id="from")
        async with calling(gateway, *([agents[who]["api_key"]] if who else [])) as client:
            reply = await client.post(f"{READ}/{sent['id']}", params=query)
        assert reply.status_code == status, (who, query, reply.text)
        assert reply.json().get("error", {}).get("code") == code
        is_read = (await http.get(f"/api/messages/{sent['id']}")).json()["status"] == "delivered"
        assert is_read is (code is None)


async def test_what_is_not_there_cannot_be_read(http: httpx.AsyncClient, register: Register) -> None:
    await register("to")
    for message_id in ("x", "0190a0b1-0000-7000-8000-000000000000", "%00"):
        assert (await http.post(f"{READ}/{message_id}", params={"agent_id": "to"})).status_code == 404
