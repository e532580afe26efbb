"""Every operation against every kind of caller, over real HTTP: who is let in, who is turned away, and how.

`ROWS` says who may do what. An operation without a row fails; so does a row whose rightful caller is not
served, because a denial that everybody gets proves nothing.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from enum import Enum, auto
from typing import Any, NamedTuple

import httpx
import pytest
import websockets
from gateway_rig import OPERATOR_KEY, Register, calling
from recording import Recorder

from broker.core import keys
from broker.gateway.call import AGENT_SCOPES, Scope
from broker.gateway.openapi.document import acts_as_agent
from broker.gateway.operation import Operation
from broker.gateway.operations import OPERATIONS
from broker.gateway.serve import Running
from schema.ids import new_id
from schema.trip import Trip

BASE = "/api/v1/messaging"
WITH_SCOPE = [operation for operation in OPERATIONS if operation.scope is not None]
LAST = ("completeWorkOrder", "endContact", "rotateKeys", "rotateSigningSecret", "deleteAgent")
"""Done after everything else: they change what the others need."""


class Who(Enum):
    """Who is let in with a key of the right scope; an operator always is."""

    ALL = auto()
    """Anybody, without a key too."""
    ANY = auto()
    """Every agent, for itself or about what everybody may know."""
    NAMED = auto()
    """The agent the path names; another agent is 403 `agent_mismatch`."""
    PARTY = auto()
    """Those the thing concerns; for another agent it does not exist."""
    OPERATOR = auto()


class Row(NamedTuple):
    """Who may, and a request that works: `{slot}` in its values is filled from the world."""

    who: Who
    path: Mapping[str, str] = {}
    query: Mapping[str, Any] = {}
    body: Any = None


OWN = {"agent_id": "own"}
MESSAGE = {"message_id": "{message}"}

ROWS: dict[str, Row] = {
    "registerAgent": Row(Who.OPERATOR, body={"name": "{fresh}"}),
    "listAgents": Row(Who.ANY),
    "showAgent": Row(Who.ANY, OWN),
    "heartbeat": Row(Who.NAMED, OWN),
    "changeAgent": Row(Who.NAMED, OWN, body={"status_message": "here"}),
    "deleteAgent": Row(Who.NAMED, OWN, {"mode": "drain"}),
    "listKeys": Row(Who.NAMED, OWN),
    "addKey": Row(Who.NAMED, OWN, body={"scopes": ["messages:read"]}),
    "rotateKeys": Row(Who.NAMED, OWN, body={}),
    "revokeKey": Row(Who.NAMED, {**OWN, "key_id": "{key_id}"}),
    "rotateSigningSecret": Row(Who.NAMED, OWN),
    "sendMessage": Row(Who.ANY, query={"wait": "accepted"}, body={"to_agent_id": "peer"}),
    "sendBatch": Row(Who.ANY, body=[{"to_agent_id": "peer"}]),
    "listMessages": Row(Who.ANY),
    "showMessage": Row(Who.PARTY, MESSAGE),
    "listAttempts": Row(Who.PARTY, MESSAGE),
    "showRoute": Row(Who.PARTY, MESSAGE),
    "changeStatus": Row(Who.PARTY, MESSAGE, body={"status": "processed"}),
    "explainRoute": Row(Who.ANY, body={"to_agent_id": "peer"}),
    "showInbox": Row(Who.ANY),
    "markRead": Row(Who.PARTY, {"message_id": "{unread}"}),
    "streamMessages": Row(Who.ANY),
    "sendHeartbeat": Row(Who.ANY),
    "sendHeartbeats": Row(Who.NAMED, body={"agent_ids": ["{own_id}"]}),
    "changePresence": Row(Who.ANY, body={"status_message": "here"}),
    "showPresence": Row(Who.ANY, OWN),
    "pingAgent": Row(Who.ANY, body={"to_agent_id": "peer"}),
    "requestContact": Row(Who.ANY, body={"to_agent_id": "fourth", "subject": "hello"}),
    "listContacts": Row(Who.ANY),
    "respondToContact": Row(Who.PARTY, {"peer": "peer"}, body={"action": "accept"}),
    "endContact": Row(Who.PARTY, {"peer": "peer"}),
    "orderWork": Row(Who.ANY, body={"to_agent_id": "fourth", "title": "a hole"}),
    "listWorkOrders": Row(Who.ANY),
    "showWorkOrder": Row(Who.PARTY, {"work_order_id": "{accepted}"}),
    "respondToWorkOrder": Row(Who.PARTY, {"work_order_id": "{offered}"}, body={"action": "accept"}),
    "reportProgress": Row(Who.PARTY, {"work_order_id": "{accepted}"}, body={"lease": "{lease}"}),
    "completeWorkOrder": Row(Who.PARTY, {"work_order_id": "{accepted}"}, body={"lease": "{lease}"}),
    "cancelWorkOrder": Row(Who.PARTY, {"work_order_id": "{ordered}"}, body={}),
    "showStatistics": Row(Who.ANY),
    "listDeadLetters": Row(Who.ANY),
    "replayDeadLetters": Row(Who.ANY, body={"ids": [new_id()]}),
    "listTrips": Row(Who.OPERATOR),
    "resetTrip": Row(Who.OPERATOR, {"trip_id": "{trip}"}),
    "listKillSwitches": Row(Who.OPERATOR),
    "setKillSwitch": Row(Who.OPERATOR, body={"root_id": "{fresh_id}"}),
    "removeKillSwitch": Row(Who.OPERATOR, {"switch_id": "{switch}"}),
    "healthz": Row(Who.ALL),
    "readyz": Row(Who.ALL),
    "openapi": Row(Who.ALL),
    "docs": Row(Who.ALL),
    "docsStyle": Row(Who.ALL),
    "docsScript": Row(Who.ALL),
}


IN_ORDER = sorted(OPERATIONS, key=lambda one: LAST.index(one.name) if one.name in LAST else -1)
"""A sequence in which one rightful caller can do everything."""


def test_every_operation_has_a_row() -> None:
    assert ROWS.keys() == {operation.name for operation in OPERATIONS}
    assert {name for name, row in ROWS.items() if row.who is Who.ALL} == {
        operation.name for operation in OPERATIONS if operation.scope is None
    }


# --- the world --------------------------------------------------------------------------------------------


class World:
    """Agents `own`, `peer`, `other` (a stranger to both) and `fourth`; things between own and peer."""

    def __init__(self, gateway: Running, operator: httpx.AsyncClient, nobody: httpx.AsyncClient) -> None:
        self.gateway = gateway
        self.operator = operator
        self.nobody = nobody
        self.agents: dict[str, Any] = {}
        self.slots: dict[str, str] = {}

    def key(self, name: str) -> str:
        key: str = self.agents[name]["api_key"]
        return key

    async def made(self, path: str, body: Any, **query: str) -> Any:
        reply = await self.operator.post(path, json=body, params=query)
        assert reply.is_success, reply.text
        return reply.json()

    async def new_key(self, scopes: frozenset[Scope] = AGENT_SCOPES) -> Any:
        """Add a key of own's with these scopes."""
        return await self.made("/api/agents/own/keys", {"scopes": sorted(scope.value for scope in scopes)})

    async def spoil(self, column: str) -> str:
        """Return a key of own's that was revoked or has expired."""
        made = await self.new_key()
        statement = f"UPDATE agent_keys SET {column} = now() - interval '1 second' WHERE id = $1"
        await self.gateway.services.pool.execute(statement, made["id"])
        key: str = made["api_key"]
        return key

    def filled(self, value: Any) -> Any:
        if isinstance(value, str):
            return value.format(**self.slots, fresh=f"new {new_id()[-12:]}", fresh_id=new_id())
        if isinstance(value, Mapping):
            return {name: self.filled(one) for name, one in value.items()}
        return [self.filled(one) for one in value] if isinstance(value, list) else value

    async def call(
        self,
        operation: Operation,
        key: str | None,
        *,
        query: Mapping[str, Any] | None = None,
        header: Mapping[str, str] | None = None,
        body: Any = None,
        path: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Send the request of a row; of a stream, only its head is read."""
        row = ROWS[operation.name]
        url = operation.path.format(**self.filled({**row.path, **(path or {})}))
        own_body = self.filled(row.body)
        if isinstance(own_body, dict):
            own_body |= body or {}
        bearer = {} if key is None else {"Authorization": f"Bearer {key}"}
        request = self.nobody.build_request(
            operation.method,
            url,
            params={**row.query, **(query or {})},
            json=own_body,
            headers={**bearer, **(header or {})},
        )
        reply = await self.nobody.send(request, stream=True)
        if not (operation.streams and reply.is_success):
            await reply.aread()
        await reply.aclose()
        return reply


@pytest.fixture
async def world(
    gateway: Running, http: httpx.AsyncClient, register: Register, recorder: Recorder
) -> AsyncIterator[World]:
    async with calling(gateway, None) as nobody:
        yield await _populated(World(gateway, http, nobody), register)


async def _populated(world: World, register: Register) -> World:
    for name in ("own", "peer", "other", "fourth"):
        world.agents[name] = await register(name)
    sent = [await world.made("/api/messages", {"from_agent_id": "peer", "to_agent_id": "own"}) for _ in "12"]
    orders = [
        await world.made(f"{BASE}/work-order", {"to_agent_id": to, "title": "a hole"}, from_agent_id=by)
        for by, to in (("peer", "own"), ("peer", "own"), ("own", "peer"))
    ]
    offered, accepted, ordered = (order["work_order_id"] for order in orders)
    taken = await world.made(f"{BASE}/work-order/{accepted}/respond", {"action": "accept"}, agent_id="own")
    await world.made(f"{BASE}/send", {"to_agent_id": "own", "subject": "hello"}, from_agent_id="peer")
    switch = await world.made("/api/kill-switches", {"root_id": new_id()})
    trip = Trip(
        id=new_id(),
        sign="repeat",
        from_agent_id=world.agents["fourth"]["id"],
        to_agent_id=world.agents["other"]["id"],
        both=False,
        at_ms=1,
    )
    await world.gateway.services.gatekeeper.book.trip(trip)
    world.slots = {
        "trip": trip.id,
        "switch": switch["id"],
        "message": sent[0]["id"],
        "unread": sent[1]["id"],
        "offered": offered,
        "accepted": accepted,
        "ordered": ordered,
        "lease": taken["lease"],
        "own_id": world.agents["own"]["id"],
        "key_id": (await world.new_key())["id"],
    }
    return world


# --- who is turned away -----------------------------------------------------------------------------------


async def test_without_a_key_that_works_everything_is_401_but_what_is_open(world: World) -> None:
    own = world.key("own")
    callers = {
        "none": None,
        "malformed": "nonsense",
        "short": "x",
        "wrong": keys.mint(b"\0" * 8, b"\0" * 32).text,
        "altered": own[:-1] + ("0" if own[-1] != "0" else "1"),
        "revoked": await world.spoil("revoked_at"),
        "expired": await world.spoil("expires_at"),
    }
    found = {}
    for caller, key in callers.items():
        for operation in OPERATIONS:
            reply = await world.call(operation, key)
            found[caller, operation.name] = reply.status_code
            if reply.status_code == 401:
                assert reply.headers["WWW-Authenticate"].startswith("Bearer ")
                assert reply.json()["error"]["code"] == "unauthenticated"
    wanted = {
        (caller, operation.name): 401 if operation.scope is not None else 200
        for caller in callers
        for operation in OPERATIONS
    }
    assert found == wanted


@pytest.mark.parametrize("scheme", ["Basic {key}", "{key}", "Bearer", "Bearer  {key}x", "Token {key}"])
async def test_a_key_counts_as_bearer_only(gateway: Running, register: Register, scheme: str) -> None:
    key = (await register("own"))["api_key"]
    async with calling(gateway, None) as http:
        header = {"Authorization": scheme.format(key=key)}
        assert (await http.get("/api/agents", headers=header)).status_code == 401


async def test_a_key_in_the_query_is_no_key(world: World) -> None:
    key = world.key("own")
    names = ("key", "api_key", "apikey", "token", "access_token", "authorization", "bearer")
    query = {**dict.fromkeys(names, key), "Authorization": f"Bearer {key}"}
    for operation in WITH_SCOPE:
        reply = await world.call(operation, None, query=query)
        assert reply.status_code == 401, operation.name


async def test_a_key_without_the_scope_is_403(world: World) -> None:
    restricted = {scope: (await world.new_key(AGENT_SCOPES - {scope}))["api_key"] for scope in AGENT_SCOPES}
    for operation in WITH_SCOPE:
        assert operation.scope is not None
        reply = await world.call(operation, restricted.get(operation.scope, world.key("own")))
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "forbidden"), operation.name


async def test_a_key_with_the_scope_alone_is_enough(world: World) -> None:
    by_scope = {scope: (await world.new_key(frozenset({scope})))["api_key"] for scope in AGENT_SCOPES}
    for operation in IN_ORDER:
        if operation.scope in by_scope and operation.name not in ("addKey", *LAST[2:]):
            reply = await world.call(operation, by_scope[operation.scope])
            assert reply.is_success, (operation.name, reply.status_code)


async def test_another_agent_gets_only_what_is_everybodys_or_its_own(world: World) -> None:
    wanted = {
        Who.ALL: (200, None),
        Who.NAMED: (403, "agent_mismatch"),
        Who.PARTY: (404, "not_found"),
        Who.OPERATOR: (403, "forbidden"),
    }
    for operation in OPERATIONS:
        reply = await world.call(operation, world.key("other"))
        who = ROWS[operation.name].who
        if who is Who.ANY:
            assert reply.is_success, (operation.name, reply.text)
        else:
            assert (reply.status_code, _code(reply)) == wanted[who], operation.name


async def test_a_foreign_thing_looks_as_one_that_never_was(world: World) -> None:
    for operation in OPERATIONS:
        row = ROWS[operation.name]
        if row.who is not Who.PARTY:
            continue
        nowhere = {name: "fourth" if name == "peer" else new_id() for name in row.path}
        foreign = await world.call(operation, world.key("other"))
        missing = await world.call(operation, world.key("other"), path=nowhere)
        assert _without_id(foreign) == _without_id(missing), operation.name
        assert foreign.headers.keys() == missing.headers.keys()


def _code(reply: httpx.Response) -> str | None:
    if reply.is_success:
        return None
    code: str = reply.json()["error"]["code"]
    return code


def _without_id(reply: httpx.Response) -> Any:
    error = reply.json()["error"]
    return reply.status_code, {name: value for name, value in error.items() if name != "request_id"}


# --- who is let in ----------------------------------------------------------------------------------------


async def test_the_rightful_agent_and_the_operator_are_let_in(world: World) -> None:
    for operation in IN_ORDER:
        who = ROWS[operation.name].who
        by_agent = await world.call(operation, world.key("own"))
        if who is Who.OPERATOR:
            assert (by_agent.status_code, _code(by_agent)) == (403, "forbidden")
        else:
            assert by_agent.is_success, (operation.name, by_agent.status_code, by_agent.text)
        header = {"X-Agent-Id": "own"} if acts_as_agent(operation) else {}
        # An operator has no key of the agent's to spare: rotating would end the one the agent goes on with.
        elsewhere = {"agent_id": "fourth"} if operation.name == "rotateKeys" else None
        by_operator = await world.call(operation, OPERATOR_KEY, header=header, path=elsewhere)
        # What the agent has just done cannot always be done again; that is no matter of who asks.
        done = {409, 404} if who is Who.PARTY and operation.method != "GET" else {409}
        assert by_operator.is_success or by_operator.status_code in done, (operation.name, by_operator.text)


# --- claims -----------------------------------------------------------------------------------------------


FILTERED = {"listDeadLetters", "replayDeadLetters"}
"""Where `from_agent_id` asks whose messages, not in whose name: an agent's key sees its own in any case."""


def claims(operation: Operation) -> list[tuple[str, str]]:
    """Return the places where an operation may be told who acts."""
    asked = operation.query.__struct_fields__
    places = [("header", "X-Agent-Id")]
    if operation.name in FILTERED:
        return [*places, *([("query", "agent_id")] if "agent_id" in asked else [])]
    if acts_as_agent(operation) and not operation.raw_body:  # of a batch, each message claims for itself
        places += [("query", name) for name in ("agent_id", "from_agent_id") if name in asked]
        fields = getattr(operation.body, "__struct_fields__", ())
        places += [("body", "from_agent_id")] if "from_agent_id" in fields else []
    return places


PLACES = [(operation, *place) for operation in WITH_SCOPE for place in claims(operation)]


async def test_an_agent_that_claims_to_be_another_is_403_wherever_it_does(world: World) -> None:
    own = world.agents["own"]
    for operation, place, name in PLACES:
        if ROWS[operation.name].who is Who.OPERATOR:
            continue
        for claim in ("own", own["id"], own["id"].upper(), "nobody at all"):
            reply = await world.call(operation, world.key("other"), **{place: {name: claim}})
            assert (reply.status_code, _code(reply)) == (403, "agent_mismatch"), (
                operation.name,
                place,
                claim,
            )


async def test_one_false_claim_beside_a_true_one_is_403_too(world: World) -> None:
    for operation in WITH_SCOPE:
        places = claims(operation)
        if ROWS[operation.name].who is Who.OPERATOR or len(places) < 2:
            continue
        for false in places:
            given: dict[str, dict[str, str]] = {}
            for place, name in places:
                given.setdefault(place, {})[name] = "own" if (place, name) == false else "other"
            reply = await world.call(operation, world.key("other"), **given)
            assert (reply.status_code, _code(reply)) == (403, "agent_mismatch"), (operation.name, false)


async def test_an_agent_may_say_who_it_is(world: World) -> None:
    own = world.agents["own"]
    for operation, place, name in PLACES:
        if operation.name in LAST or ROWS[operation.name].who is Who.OPERATOR:
            continue
        for claim in ("own", own["id"]):
            reply = await world.call(operation, world.key("own"), **{place: {name: claim}})
            assert reply.is_success or reply.status_code in (404, 409), (operation.name, place, reply.text)


async def test_a_batch_refuses_foreign_senders_one_by_one(world: World) -> None:
    async with calling(world.gateway, world.key("other")) as http:
        body = [{"to_agent_id": "peer", "from_agent_id": sender} for sender in ("own", "other", "nobody")]
        results = (await http.post("/api/messages/batch", json=body)).json()["results"]
        assert [one.get("error", {}).get("code") for one in results] == [
            "agent_mismatch",
            None,
            "agent_mismatch",
        ]
        claimed = await http.post("/api/messages/batch?from_agent_id=own", json=[{"to_agent_id": "peer"}])
        codes = {one["error"]["code"] for one in claimed.json().get("results", [])}
        assert claimed.status_code == 403 or codes == {"agent_mismatch"}


# --- WebSockets -------------------------------------------------------------------------------------------


@asynccontextmanager
async def socket(world: World, key: str | None, query: str = "", **more: Any) -> AsyncIterator[Any]:
    url = world.gateway.url.replace("http://", "ws://") + f"{BASE}/stream{query}"
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    async with websockets.connect(url, additional_headers={**headers, **more}, proxy=None) as connection:
        yield connection


async def test_a_socket_opens_for_whom_the_stream_would(world: World) -> None:
    own = world.key("own")
    cases = [
        (None, "", {}, 401),
        ("nonsense", "", {}, 401),
        (await world.spoil("revoked_at"), "", {}, 401),
        (await world.spoil("expires_at"), "", {}, 401),
        (None, f"?token={own}&api_key={own}", {}, 401),
        ((await world.new_key(AGENT_SCOPES - {Scope.MESSAGES_READ}))["api_key"], "", {}, 403),
        (world.key("other"), "?agent_id=own", {}, 403),
        (world.key("other"), "", {"X-Agent-Id": "own"}, 403),
        (OPERATOR_KEY, "", {}, 422),
        (OPERATOR_KEY, "?agent_id=nobody", {}, 422),
    ]
    for key, query, headers, status in cases:
        with pytest.raises(websockets.InvalidStatus) as refused:
            async with socket(world, key, query, **headers):
                pass
        response = refused.value.response
        assert response.status_code == status, (key, query, response.body)
        assert ("WWW-Authenticate" in response.headers) == (status == 401)
    for key, query in ((own, ""), (own, "?agent_id=own"), (OPERATOR_KEY, "?agent_id=own")):
        async with socket(world, key, query) as connection:
            assert "hello" in await connection.recv()
