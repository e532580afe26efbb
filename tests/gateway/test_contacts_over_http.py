"""Contacts over HTTP: asking, answering, listing, ending, and what a policy and a rate let through."""

import asyncio
import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from gateway_rig import Register, calling, held, settings_for, until_ready
from recording import Recorder

from broker.gateway.coordination import contact_book
from broker.gateway.serve import Running
from broker.servers.postgres import EmbeddedPostgres
from broker.store import outbox
from broker.store.migrate import migrate
from broker.telemetry import metrics
from schema.ids import new_id

API = "/api/v1/messaging"
TOMORROW = (datetime.now(UTC) + timedelta(days=1)).replace(microsecond=0)


class People:
    """Agents and what they do, each under its own key."""

    def __init__(self, gateway: Running, http: httpx.AsyncClient, register: Register) -> None:
        self._gateway = gateway
        self._http = http
        self._register = register
        self.agents: dict[str, Any] = {}

    async def add(self, *names: str, **more: Any) -> None:
        for name in names:
            self.agents[name] = await self._register(name, **more)

    def id(self, name: str) -> str:
        return str(self.agents[name]["id"])

    async def call(
        self, name: str, method: str, path: str, *, at: Running | None = None, **more: Any
    ) -> httpx.Response:
        url = path if at is None else at.url + path
        headers = {"Authorization": f"Bearer {self.agents[name]['api_key']}"}
        return await self._http.request(method, url, headers=headers, **more)

    async def ask(self, name: str, to: str, **more: Any) -> httpx.Response:
        body = {"to_agent_id": to, "subject": "hello", "body": "shall we talk?", **more}
        return await self.call(name, "POST", f"{API}/send", json=body)

    async def answer(self, name: str, peer: str, action: str = "accept", **more: Any) -> httpx.Response:
        return await self.call(
            name, "POST", f"{API}/contacts/{peer}/respond", json={"action": action, **more}
        )

    async def write(
        self, name: str, to: str, *, at: Running | None = None, **more: Any
    ) -> tuple[int, str | None]:
        body = {"to_agent_id": to, "content": {}, **more}
        reply = await self.call(name, "POST", "/api/messages?wait=accepted", at=at, json=body)
        return reply.status_code, reply.json().get("error", {}).get("code")

    async def contacts(self, name: str, **params: Any) -> list[tuple[str, str, str, bool]]:
        reply = await self.call(name, "GET", f"{API}/contacts", params=params)
        assert reply.status_code == 200, reply.text
        return [
            (contact["peer"]["name"], contact["direction"], contact["status"], contact["is_active"])
            for contact in reply.json()["contacts"]
        ]

    async def choose(self, name: str, policy: str, *gateways: Running) -> None:
        """Give an agent another policy; the gateways know at once."""
        pool = self._gateway.services.pool
        await pool.execute("UPDATE agents SET contact_policy = $2 WHERE id = $1", self.id(name), policy)
        for gateway in gateways:
            gateway.services.agents.forget(self.id(name))

    async def inbox(self, name: str, **params: Any) -> list[Any]:
        found: list[Any] = (await self.call(name, "GET", "/api/messages", params=params)).json()
        return found


PASSED: tuple[int, str | None] = (202, None)
REFUSED = (403, "not_a_contact")
LIMITED = (429, "rate_limited")


@pytest.fixture
def people(gateway: Running, http: httpx.AsyncClient, register: Register) -> People:
    return People(gateway, http, register)


# --- asking and answering ---------------------------------------------------------------------------


async def test_a_request_waits_in_the_inbox_of_an_agent_that_is_not_there(
    people: People, recorder: Recorder
) -> None:
    await people.add("ann", "ben")
    reply = await people.ask("ann", "ben", priority=2)
    assert reply.status_code == 201, reply.text
    body = reply.json()
    assert (body["success"], body["contact_status"]) == (True, "pending")
    assert (body["from_agent_id"], body["to_agent_id"]) == (people.id("ann"), people.id("ben"))
    (message,) = await people.inbox("ben")
    assert (message["id"], message["message_type"]) == (body["message_id"], "contact_request")
    assert message["content"] == {"subject": "hello", "body": "shall we talk?"}
    assert (message["priority"], message["status"]) == (2, "pending")
    assert await people.contacts("ann") == [("ben", "outgoing", "pending", False)]
    assert await people.contacts("ben") == [("ann", "incoming", "pending", False)]


async def test_accepting_lets_both_write_and_tells_the_one_who_asked(
    people: People, recorder: Recorder
) -> None:
    await people.add("ann", "ben", contact_policy="contacts_only")
    assert await people.write("ann", "ben") == REFUSED
    request = (await people.ask("ann", "ben")).json()
    assert await people.write("ann", "ben") == REFUSED
    assert await people.write("ben", "ann") == REFUSED

    reply = await people.answer(
        "ben", "ann", expires_at=TOMORROW.isoformat(), rate_per_minute=50, reason="gladly"
    )
    assert reply.status_code == 200, reply.text
    contact = reply.json()
    assert contact["peer"] == {"id": people.id("ann"), "name": "ann"}
    assert (contact["agent_id"], contact["direction"]) == (people.id("ben"), "incoming")
    assert (contact["status"], contact["is_active"], contact["rate_per_minute"]) == ("accepted", True, 50)
    assert (contact["message_id"], contact["reason"]) == (request["message_id"], "gladly")
    assert datetime.fromisoformat(contact["expires_at"]) == TOMORROW
    (told,) = await people.inbox("ann")
    assert (told["message_type"], told["from_agent_id"]) == ("contact_response", people.id("ben"))
    assert (told["reply_to"], told["root_id"]) == (request["message_id"], request["message_id"])
    assert told["content"] == {
        "status": "accepted",
        "rate_per_minute": 50,
        "expires_at": contact["expires_at"],
        "reason": "gladly",
    }
    assert await people.write("ann", "ben") == PASSED
    assert await people.write("ben", "ann") == PASSED


async def test_the_same_answer_again_changes_nothing_and_tells_nobody(
    people: People, recorder: Recorder
) -> None:
    await people.add("ann", "ben")
    await people.ask("ann", people.id("ben"))
    answers = [await people.answer("ben", "ann", rate_per_minute=9) for _ in range(3)]
    answers.append(await people.answer("ben", people.id("ann").upper(), rate_per_minute=9))
    assert [answer.status_code for answer in answers] == [200] * 4
    assert len({answer.text for answer in answers}) == 1
    assert len(await people.inbox("ann")) == 1


async def test_a_decision_may_be_changed_and_every_change_is_told(people: People, recorder: Recorder) -> None:
    await people.add("ann")
    await people.add("ben", contact_policy="contacts_only")
    await people.ask("ann", "ben")
    steps: list[tuple[dict[str, Any], tuple[int, str | None]]] = [
        ({"action": "decline", "reason": "not now"}, REFUSED),
        ({"action": "accept"}, PASSED),
        ({"action": "accept", "rate_per_minute": 1_000}, PASSED),
        ({"action": "decline"}, REFUSED),
    ]
    for answer, outcome in steps:
        assert (await people.answer("ben", "ann", **answer)).status_code == 200
        assert await people.write("ann", "ben") == outcome, answer
    told = [message["content"]["status"] for message in await people.inbox("ann")]
    assert told == ["declined", "accepted", "accepted", "declined"]


async def test_asking_again_repeats_the_request_and_between_contacts_it_is_just_a_message(
    people: People, recorder: Recorder
) -> None:
    await people.add("ann", "ben")
    requests = [(await people.ask("ann", "ben")).json() for _ in range(2)]
    reply = await people.call("ben", "GET", f"{API}/contacts")
    (contact,) = reply.json()["contacts"]
    assert contact["message_id"] == requests[1]["message_id"]
    accepted = (await people.answer("ben", "ann", rate_per_minute=100)).json()

    assert (await people.ask("ann", "ben")).json()["contact_status"] == "accepted"
    assert (await people.ask("ben", "ann")).json()["contact_status"] == "accepted"
    (unchanged,) = (await people.call("ben", "GET", f"{API}/contacts")).json()["contacts"]
    assert unchanged == accepted
    requested = [message["message_type"] for message in await people.inbox("ben")]
    assert requested == ["contact_request"] * 3
    assert await people.contacts("ann") == [("ben", "outgoing", "accepted", True)]


async def test_a_request_and_its_answer_at_the_same_moment_leave_one_answer(people: People) -> None:
    """Without a recorder: publishing is not what is raced here."""
    await people.add("ann", "ben")
    services = people._gateway.services
    services.waiters.release_all()  # nobody waits for a record that never comes
    await people.ask("ann", "ben")
    for _ in range(5):
        await asyncio.gather(people.ask("ann", "ben"), people.answer("ben", "ann"), people.ask("ann", "ben"))
        ((_, _, status, _),) = await people.contacts("ben")
        assert status == "accepted"


async def test_what_is_told_waits_in_the_outbox_while_redis_is_away(
    gateway: Running, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    await people.add("ann", "ben")
    services = gateway.services
    services.joined = False  # as before Redis was reached: publishing is 503
    request = await people.ask("ann", "ben")
    answer = await people.answer("ben", "ann")
    assert (request.status_code, answer.status_code) == (201, 200)
    rows = await services.pool.fetch("SELECT id FROM outbox")
    assert len(rows) == 2
    assert request.json()["message_id"] in {str(row["id"]) for row in rows}
    await outbox.remove(services.pool, [str(row["id"]) for row in rows])


BAD_REQUESTS: list[tuple[dict[str, Any], set[str]]] = [
    ({}, {"to_agent_id", "subject"}),
    ({"to_agent_id": "ben"}, {"subject"}),
    ({"to_agent_id": "ben", "subject": ""}, {"subject"}),
    ({"to_agent_id": "ben", "subject": "s" * 201}, {"subject"}),
    ({"to_agent_id": "ben", "subject": "s", "body": "b" * 20_001, "priority": 0}, {"body", "priority"}),
    ({"to_agent_id": "ben", "subject": 1, "priority": 11}, {"subject", "priority"}),
]


async def test_a_bad_request_tells_all_its_faults(people: People) -> None:
    await people.add("ann", "ben")
    for body, fields in BAD_REQUESTS:
        reply = await people.call("ann", "POST", f"{API}/send", json=body)
        assert reply.status_code == 422, body
        assert {fault["field"] for fault in reply.json()["error"]["details"]} == fields
    assert await people.contacts("ben") == []


BAD_ANSWERS: list[tuple[dict[str, Any], set[str]]] = [
    ({}, {"action"}),
    ({"action": "maybe"}, {"action"}),
    ({"action": "accept", "rate_per_minute": 0}, {"rate_per_minute"}),
    ({"action": "accept", "rate_per_minute": 60_001, "reason": "x" * 501}, {"rate_per_minute", "reason"}),
    ({"action": "accept", "expires_at": "2001-01-01T00:00:00Z"}, {"expires_at"}),
    ({"action": "accept", "expires_at": "soon"}, {"expires_at"}),
    ({"action": "accept", "expires_at": "0001-01-01T00:00:00+10:00"}, {"expires_at"}),
    (
        {"action": "decline", "rate_per_minute": 3, "expires_at": "2099-01-01T00:00:00Z"},
        {"rate_per_minute", "expires_at"},
    ),
]


async def test_a_bad_answer_tells_all_its_faults(people: People) -> None:
    await people.add("ann", "ben")
    people._gateway.services.waiters.release_all()
    await people.ask("ann", "ben")
    for body, fields in BAD_ANSWERS:
        reply = await people.call("ben", "POST", f"{API}/contacts/ann/respond", json=body)
        error = reply.json()["error"]
        assert reply.status_code == 422, body
        found = {fault["field"] for fault in error["details"]} if "details" in error else {error["field"]}
        assert found == fields
    assert await people.contacts("ben") == [("ann", "incoming", "pending", False)]


async def test_only_who_was_asked_may_answer(people: People, http: httpx.AsyncClient) -> None:
    await people.add("ann", "ben", "eve")
    people._gateway.services.waiters.release_all()
    await people.ask("ann", "ben")

    async def outcome(reply: httpx.Response) -> tuple[int, str]:
        return reply.status_code, reply.json()["error"]["code"]

    assert await outcome(await people.answer("ann", "ben")) == (404, "not_found")
    assert await outcome(await people.answer("eve", "ann")) == (404, "not_found")
    assert await outcome(await people.answer("ben", "nobody")) == (404, "not_found")
    path = f"{API}/contacts/ann/respond"
    claimed = await people.call("eve", "POST", path, params={"agent_id": "ben"}, json={"action": "accept"})
    assert await outcome(claimed) == (403, "agent_mismatch")
    unnamed = await http.post(path, json={"action": "accept"})
    assert (*await outcome(unnamed), unnamed.json()["error"]["field"]) == (422, "invalid", "agent_id")
    named = await http.post(path, params={"agent_id": "ben"}, json={"action": "accept"})
    assert named.status_code == 200, named.text


REFUSED_REQUESTS: list[tuple[dict[str, str], str, int, str, str | None]] = [
    ({}, "ben", 422, "invalid", "from_agent_id"),
    ({"from_agent_id": "nobody"}, "ben", 422, "invalid", "from_agent_id"),
    ({"from_agent_id": "ann"}, "nobody", 422, "unknown_recipient", "to_agent_id"),
    ({"from_agent_id": "ann"}, "ann", 422, "invalid", "to_agent_id"),
    ({"from_agent_id": "ann"}, "shut", 403, "not_a_contact", None),
]


async def test_a_request_needs_someone_who_asks_and_someone_to_ask(
    people: People, http: httpx.AsyncClient
) -> None:
    await people.add("ann", "ben")
    await people.add("shut", contact_policy="closed")
    for params, to, status, code, field in REFUSED_REQUESTS:
        reply = await http.post(f"{API}/send", params=params, json={"to_agent_id": to, "subject": "s"})
        error = reply.json()["error"]
        assert (reply.status_code, error["code"], error.get("field")) == (status, code, field), (params, to)
    assert await people.contacts("shut") == []


# --- lists and ends ---------------------------------------------------------------------------------


async def test_contacts_are_listed_in_both_directions_in_pages_that_cover_each_once(people: People) -> None:
    people._gateway.services.waiters.release_all()
    await people.add("ann", *(f"in {n}" for n in range(3)), *(f"out {n}" for n in range(3)))
    for n in range(3):
        await people.ask(f"in {n}", "ann")
        await people.ask("ann", f"out {n}")
    await people.answer("ann", "in 1")
    await people.answer("ann", "in 2", "decline")
    found, cursor = [], ""
    while True:
        reply = await people.call("ann", "GET", f"{API}/contacts", params={"limit": 2, "cursor": cursor})
        page = reply.json()
        assert page["agent_id"] == people.id("ann")
        found += [(contact["peer"]["name"], contact["direction"]) for contact in page["contacts"]]
        if page["next_cursor"] is None:
            break
        cursor = page["next_cursor"]
    assert found == [pair for n in range(3) for pair in ((f"in {n}", "incoming"), (f"out {n}", "outgoing"))]
    assert await people.contacts("ann", status="accepted") == [("in 1", "incoming", "accepted", True)]
    assert await people.contacts("ann", status="declined") == [("in 2", "incoming", "declined", False)]
    assert len(await people.contacts("ann", status="pending", limit=1_000)) == 4
    pool = people._gateway.services.pool
    await pool.execute("UPDATE agents SET deleted_at = now() WHERE name LIKE '% 0'")
    assert [name for name, *_ in await people.contacts("ann", limit=2)] == ["in 1", "out 1"]


BAD_QUESTIONS: list[tuple[dict[str, Any], str]] = [
    ({"status": "friends"}, "status"),
    ({"limit": 0}, "limit"),
    ({"cursor": "x"}, "cursor"),
]


async def test_a_bad_question_for_a_list_names_its_field(people: People, http: httpx.AsyncClient) -> None:
    await people.add("ann")
    for params, field in BAD_QUESTIONS:
        reply = await people.call("ann", "GET", f"{API}/contacts", params=params)
        assert (reply.status_code, reply.json()["error"]["field"]) == (422, field)
    unnamed = await http.get(f"{API}/contacts")
    assert (unnamed.status_code, unnamed.json()["error"]["field"]) == (422, "agent_id")


async def test_either_side_ends_a_contact_and_a_refusal_stays(people: People) -> None:
    people._gateway.services.waiters.release_all()
    await people.add("ann", "ben", contact_policy="contacts_only")
    for who, peer in (("ann", "ben"), ("ben", "ann")):
        await people.ask("ann", "ben")
        await people.answer("ben", "ann")
        assert await people.write("ben", "ann") == PASSED
        ended = await people.call(who, "DELETE", f"{API}/contacts/{peer}")
        assert (ended.status_code, ended.json()["success"]) == (200, True)
        assert await people.write("ann", "ben") == REFUSED
        assert await people.write("ben", "ann") == REFUSED
        again = await people.call(who, "DELETE", f"{API}/contacts/{peer}")
        assert (again.status_code, again.json()["error"]["code"]) == (404, "not_found")

    await people.ask("ann", "ben")
    await people.answer("ben", "ann", "decline")
    assert (await people.call("ann", "DELETE", f"{API}/contacts/ben")).status_code == 404
    assert (await people.ask("ann", "ben")).status_code == 403
    assert (await people.call("ben", "DELETE", f"{API}/contacts/ann")).status_code == 200
    assert (await people.ask("ann", "ben")).status_code == 201


# --- what a policy lets through ---------------------------------------------------------------------


async def test_a_policy_decides_who_may_write_through_every_door(
    people: People, http: httpx.AsyncClient, recorder: Recorder
) -> None:
    await people.add("ann", "friend")
    for policy in ("open", "contacts_only", "closed"):
        await people.add(policy, contact_policy="contacts_only")
        await people.ask("friend", policy)
        await people.answer(policy, "friend")
        await people.choose(policy, policy, people._gateway)
        lets = PASSED if policy == "open" else REFUSED
        assert await people.write("ann", policy) == lets
        assert await people.write("friend", policy) == PASSED
        assert await people.write("ann", people.id(policy).upper()) == lets
        # An operator that names nobody passes; in somebody's name it is that somebody.
        for claim, wanted in ((None, 202), ("ann", lets[0]), ("friend", 202)):
            body = {"to_agent_id": policy, "from_agent_id": claim, "content": {}}
            assert (await http.post("/api/messages?wait=accepted", json=body)).status_code == wanted
        batch = [{"to_agent_id": policy}, {"to_agent_id": "ann"}]
        results = (await people.call("ann", "POST", "/api/messages/batch", json=batch)).json()["results"]
        assert [result.get("error", {}).get("code") for result in results] == [lets[1], None]
        ping = await people.call("ann", "POST", f"{API}/ping", json={"to_agent_id": policy})
        assert ping.status_code == (200 if policy == "open" else 403)
        # Nobody gets around asking by calling a message a request.
        assert await people.write("ann", policy, message_type="contact_request") == lets
        assert (await people.ask("ann", policy)).status_code == (403 if policy == "closed" else 201)


async def test_a_reply_to_ones_own_message_passes_and_to_anybody_elses_does_not(
    people: People, recorder: Recorder
) -> None:
    await people.add("ann", "eve")
    await people.add("shut", contact_policy="closed")
    # Not waited for: an answer may come before its question is recorded.
    question = await people.call(
        "shut", "POST", "/api/messages?wait=accepted", json={"to_agent_id": "ann", "content": {}}
    )
    reply_to = question.json()["id"]
    assert await people.write("ann", "shut", reply_to=reply_to) == PASSED
    assert await people.write("eve", "shut", reply_to=reply_to) == REFUSED
    assert await people.write("ann", "shut") == REFUSED
    own = await people.call("ann", "POST", "/api/messages", json={"to_agent_id": "eve", "content": {}})
    assert await people.write("ann", "shut", reply_to=own.json()["id"]) == REFUSED
    assert await people.write("ann", "shut", reply_to=new_id()) == REFUSED


async def test_an_expired_contact_is_none(people: People, gateway: Running) -> None:
    gateway.services.waiters.release_all()
    await people.add("ann", "ben", contact_policy="contacts_only")
    await people.ask("ann", "ben")
    await people.answer("ben", "ann", expires_at=TOMORROW.isoformat(), rate_per_minute=1)
    assert await people.write("ann", "ben") == PASSED
    clock = gateway.services.now_ms
    gateway.services.now_ms = lambda: clock() + 86_400_001
    assert await people.write("ann", "ben") == REFUSED
    assert await people.write("ben", "ann") == REFUSED
    assert await people.contacts("ann") == [("ben", "outgoing", "accepted", False)]
    assert (await people.ask("ann", "ben")).json()["contact_status"] == "pending"


async def test_strangers_may_ask_so_often_and_no_more(people: People) -> None:
    people._gateway.services.waiters.release_all()
    await people.add("ann", "eve")
    await people.add("ben", contact_policy="contacts_only")
    for _ in range(12):
        assert (await people.ask("ann", "ben")).status_code == 201
    reply = await people.ask("ann", "ben")
    assert (reply.status_code, reply.json()["error"]["code"]) == LIMITED
    assert 0 < int(reply.headers["Retry-After"]) <= 300
    assert (await people.ask("eve", "ben")).status_code == 201


# --- rates ------------------------------------------------------------------------------------------


@pytest.fixture
async def second(streams_url: str, database_url: str, gateway: Running) -> AsyncIterator[Running]:
    """Another gateway of the same deployment."""
    async with held(settings_for(streams_url, database_url)) as one:
        await until_ready(one)
        yield one


async def test_a_rate_holds_for_all_gateways_together_whatever_the_policy(
    people: People, gateway: Running, second: Running
) -> None:
    for one in (gateway, second):
        one.services.waiters.release_all()
        async with asyncio.timeout(20):
            await one.services.notices.listening.wait()
            await one.services.contacts.read_rates()
    await people.add("ann", "eve")
    for policy in ("open", "contacts_only", "closed"):
        await people.add(policy, contact_policy="contacts_only")
        await people.ask("ann", policy)
        # Both gateways have looked before there is a rate: it must not take them seconds to notice.
        assert await people.write("ann", policy) == REFUSED
        assert await people.write("ann", policy, at=second) == REFUSED
        await people.answer(policy, "ann", rate_per_minute=3)
        await people.choose(policy, policy, gateway, second)
        async with asyncio.timeout(20):
            while not second.services.contacts.may_have_rate(people.id(policy)):  # noqa: ASYNC110 (through Redis)
                await asyncio.sleep(0.01)
        await rate_of_three_holds(people, policy, gateway, second)


async def rate_of_three_holds(people: People, recipient: str, gateway: Running, second: Running) -> None:
    refused = metrics.REFUSED.child(reason="rate_limited")
    before = refused.value
    outcomes = [await people.write("ann", recipient, at=(gateway, second)[n % 2]) for n in range(5)]
    assert outcomes == [PASSED] * 3 + [LIMITED] * 2
    assert refused.value - before == 2
    limited = await people.call("ann", "POST", "/api/messages", json={"to_agent_id": recipient})
    assert 0 < int(limited.headers["Retry-After"]) <= 20
    ping = await people.call("ann", "POST", f"{API}/ping", json={"to_agent_id": recipient})
    assert ping.status_code == 429
    # Nobody else is bound by it, nor is the other direction.
    assert await people.write("eve", recipient) == (PASSED if recipient == "open" else REFUSED)
    for _ in range(5):
        assert await people.write(recipient, "ann") == PASSED


async def test_a_changed_rate_holds_from_the_next_message_on(people: People) -> None:
    people._gateway.services.waiters.release_all()
    await people.add("ann", "ben")
    await people.ask("ann", "ben")
    await people.answer("ben", "ann", rate_per_minute=1)
    assert [await people.write("ann", "ben") for _ in range(2)] == [PASSED, LIMITED]
    await people.answer("ben", "ann")
    assert [await people.write("ann", "ben") for _ in range(3)] == [PASSED] * 3


async def test_writing_to_open_agents_without_rates_asks_postgres_nothing(
    people: People, gateway: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    await people.add("ann", "ben")
    await gateway.services.contacts.read_rates()
    assert await people.write("ann", "ben") == PASSED  # key and agents are known from here on
    asked: list[str] = []
    pool = gateway.services.pool
    connection = pool.connection

    def counted() -> Any:
        asked.append("once")
        return connection()

    monkeypatch.setattr(contact_book, "READ_RATES_S", 3_600)
    monkeypatch.setattr(pool, "connection", counted)
    for _ in range(3):
        assert await people.write("ann", "ben") == PASSED
    # The background reading of rates may come in between, once.
    assert len(asked) <= 1


# --- without Postgres -------------------------------------------------------------------------------


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory that a server of another user can reach."""
    path = Path(tempfile.mkdtemp(prefix="ab-contacts-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


async def test_without_postgres_the_open_go_on_and_the_others_are_closed(
    streams_url: str, home: Path
) -> None:
    postgres = EmbeddedPostgres(home / "postgres")
    await asyncio.to_thread(postgres.start)
    try:
        await migrate(postgres.url)
        async with held(settings_for(streams_url, postgres.url)) as gateway, calling(gateway) as http:
            await until_ready(gateway)
            gateway.services.waiters.release_all()
            for name, policy in (("ann", "open"), ("ben", "open"), ("shy", "contacts_only")):
                await http.post("/api/agents", json={"name": name, "contact_policy": policy})
            known = {
                name: (await http.get(f"/api/agents/{name}")).json()["id"] for name in ("ann", "ben", "shy")
            }

            async def write(to: str) -> tuple[int, str | None]:
                body = {"to_agent_id": known[to], "from_agent_id": known["ann"], "content": {}}
                reply = await http.post("/api/messages?wait=accepted", json=body)
                return reply.status_code, reply.json().get("error", {}).get("code")

            assert (await write("ben"), await write("shy")) == (PASSED, REFUSED)
            await asyncio.to_thread(postgres.stop)
            away = (503, "store_unavailable")
            assert (await write("ben"), await write("shy")) == (PASSED, away)
            # Also when the records are forgotten: what the recipient chose is not.
            for agent_id in known.values():
                gateway.services.agents.forget(agent_id)
            assert (await write("ben"), await write("shy")) == (PASSED, away)
    finally:
        await asyncio.to_thread(postgres.stop, "immediate")
