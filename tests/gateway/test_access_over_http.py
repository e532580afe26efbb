"""Who may do what over HTTP: every operation against every kind of key, and claims about who one is."""

from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import httpx
import pytest
from gateway_rig import OPERATOR_KEY, Register, calling, held, settings_for, until_ready
from recording import Recorder

from broker.core import keys
from broker.gateway.keyring import FRESH_MS
from broker.gateway.operations import OPERATIONS
from broker.gateway.serve import Running

WITHOUT_KEY = {operation.name for operation in OPERATIONS if operation.scope is None}


class Case(NamedTuple):
    """One request; the status for the agent it is about (`own`), for another agent, and for the operator."""

    method: str
    path: str
    body: Any
    own: int
    other: int
    operator: int


CASES = {
    "registerAgent": Case("POST", "/api/agents", {"name": "new {n}"}, 403, 403, 201),
    "listAgents": Case("GET", "/api/agents", None, 200, 200, 200),
    "showAgent": Case("GET", "/api/agents/to", None, 200, 200, 200),
    "heartbeat": Case("POST", "/api/agents/to/heartbeat", None, 200, 403, 200),
    "changeAgent": Case("PATCH", "/api/agents/to", {"status_message": "here"}, 200, 403, 200),
    "deleteAgent": Case("DELETE", "/api/agents/to?mode=drain", None, 202, 403, 202),
    "listKeys": Case("GET", "/api/agents/to/keys", None, 200, 403, 200),
    "addKey": Case("POST", "/api/agents/to/keys", {}, 201, 403, 201),
    "rotateKeys": Case("POST", "/api/agents/to/keys/rotate", {}, 201, 403, 201),
    "revokeKey": Case("DELETE", "/api/agents/to/keys/0011223344556677", None, 404, 403, 404),
    "rotateSigningSecret": Case("POST", "/api/agents/to/signing-secret/rotate", None, 201, 403, 201),
    "explainRoute": Case(
        "POST", "/api/route/explain", {"to_agent_id": "from", "from_agent_id": "to"}, *(200, 403, 200)
    ),
    "sendMessage": Case(
        "POST",
        "/api/messages?wait=accepted",
        {"to_agent_id": "from", "from_agent_id": "to"},
        *(202, 403, 202),
    ),
    "sendBatch": Case("POST", "/api/messages/batch", [{"to_agent_id": "from"}], 200, 200, 200),
    "listMessages": Case("GET", "/api/messages?to_agent_id=to", None, 200, 403, 200),
    "streamMessages": Case(
        "GET", "/api/v1/messaging/stream?agent_id=to&last_event_id=no", None, *(422, 403, 422)
    ),
    "showMessage": Case("GET", "/api/messages/{id}", None, 200, 404, 200),
    "listAttempts": Case("GET", "/api/messages/{id}/attempts", None, 200, 404, 200),
    "showRoute": Case("GET", "/api/messages/{id}/route", None, 200, 404, 200),
    "changeStatus": Case("PUT", "/api/messages/{id}/status", {"status": "processed"}, 200, 404, 200),
    "healthz": Case("GET", "/healthz", None, 200, 200, 200),
    "readyz": Case("GET", "/readyz", None, 200, 200, 200),
    "openapi": Case("GET", "/openapi.json", None, 200, 200, 200),
    "docs": Case("GET", "/docs", None, 200, 200, 200),
}


def test_every_operation_is_in_the_matrix() -> None:
    assert CASES.keys() == {operation.name for operation in OPERATIONS}


async def test_the_matrix_of_operations_and_keys(
    gateway: Running, http: httpx.AsyncClient, register: Register, recorder: Recorder
) -> None:
    own, other, revoked = [await register(name) for name in ("to", "other", "revoked")]
    await register("from")
    message = (await http.post("/api/messages", json={"to_agent_id": "to", "from_agent_id": "from"})).json()
    await _revoke(gateway, revoked["api_key"])
    wrong = keys.mint(b"\0" * 8, b"\0" * 32).text
    callers = {
        None: lambda _: 401,
        "nonsense": lambda _: 401,
        wrong: lambda _: 401,
        own["api_key"][:-1] + ("0" if own["api_key"][-1] != "0" else "1"): lambda _: 401,
        revoked["api_key"]: lambda _: 401,
        other["api_key"]: lambda case: case.other,
        own["api_key"]: lambda case: case.own,
        OPERATOR_KEY: lambda case: case.operator,
    }
    found, expected = {}, {}
    for number, (key, status) in enumerate(callers.items()):
        async with calling(gateway, key) as client:
            for name, case in CASES.items():
                path = case.path.replace("{id}", message["id"])
                body = {"name": f"new {number}"} if name == "registerAgent" else case.body
                reply = await client.request(case.method, path, json=body)
                found[number, name] = reply.status_code
                expected[number, name] = 200 if name in WITHOUT_KEY else status(case)
                if reply.status_code == 401:
                    assert reply.headers["WWW-Authenticate"].startswith("Bearer")
    assert found == expected


async def _revoke(gateway: Running, key: str) -> None:
    await gateway.services.pool.execute(
        "UPDATE agent_keys SET revoked_at = now() WHERE id = $1", keys.key_id_of(key)
    )


@pytest.mark.parametrize(
    ("key", "claims", "status", "sender"),
    [
        ("operator", {}, 202, None),
        ("operator", {"body": "a"}, 202, "a"),
        ("operator", {"query": "a"}, 202, "a"),
        ("operator", {"header": "a"}, 202, "a"),
        ("operator", {"body": "a", "query": "b", "header": "b"}, 202, "a"),
        ("a", {}, 202, "a"),
        ("a", {"body": "a", "query": "a", "header": "a"}, 202, "a"),
        ("a", {"body": "b"}, 403, None),
        ("a", {"query": "b"}, 403, None),
        ("a", {"header": "b"}, 403, None),
        ("a", {"body": "nobody"}, 403, None),
    ],
)
async def test_a_claim_is_checked_against_the_key(
    gateway: Running, register: Register, key: str, claims: dict[str, str], status: int, sender: str | None
) -> None:
    agents = {name: await register(name) for name in ("a", "b")}
    body = {"to_agent_id": "b"} | ({"from_agent_id": claims["body"]} if "body" in claims else {})
    path = "/api/messages?wait=accepted" + (f"&from_agent_id={claims['query']}" if "query" in claims else "")
    headers = {"X-Agent-Id": claims["header"]} if "header" in claims else {}
    used = OPERATOR_KEY if key == "operator" else agents[key]["api_key"]
    async with calling(gateway, used) as client:
        reply = await client.post(path, json=body, headers=headers)
    assert reply.status_code == status, reply.text
    if status == 403:
        assert reply.json()["error"]["code"] == "agent_mismatch"
    else:
        assert reply.json()["from_agent_id"] == (None if sender is None else agents[sender]["id"])


async def test_a_key_works_at_once_and_a_revoked_one_stops_within_30_seconds(
    streams_url: str, database_url: str
) -> None:
    async with held(settings_for(streams_url, database_url)) as gateway:
        await until_ready(gateway)
        async with calling(gateway) as operator:
            agent = (await operator.post("/api/agents", json={"name": "a"})).json()
        async with calling(gateway, agent["api_key"]) as client:
            assert (await client.get("/api/agents/a")).status_code == 200
            await _revoke(gateway, agent["api_key"])
            start_ms = gateway.services.now_ms()
            gateway.services.now_ms = lambda: start_ms + FRESH_MS
            assert (await client.get("/api/agents/a")).status_code == 401


async def test_without_authentication_everybody_is_the_operator(streams_url: str, database_url: str) -> None:
    settings = settings_for(streams_url, database_url, require_authentication=False)
    async with held(settings) as gateway:
        await until_ready(gateway)
        async with calling(gateway, None) as client:
            assert (await client.post("/api/agents", json={"name": "a"})).status_code == 201


@pytest.fixture
async def silent_agent(gateway: Running, register: Register) -> AsyncIterator[httpx.AsyncClient]:
    agent = await register("a")
    async with calling(gateway, agent["api_key"]) as client:
        yield client


async def test_any_call_of_an_agents_own_is_a_sign_of_life(
    gateway: Running, silent_agent: httpx.AsyncClient
) -> None:
    assert (await silent_agent.get("/api/agents/a")).json()["is_online"] is False
    await gateway.services.signs_of_life.write_down()
    assert (await silent_agent.get("/api/agents/a")).json()["is_online"] is True
