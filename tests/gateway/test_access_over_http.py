"""Keys and claims over HTTP: who a caller is taken for, from when and until when. (Who may do what is the
matter of the authorisation matrix.)"""

from collections.abc import AsyncIterator

import httpx
import pytest
from gateway_rig import OPERATOR_KEY, Register, calling, held, settings_for, until_ready

from broker.core import keys
from broker.gateway.keyring import FRESH_MS
from broker.gateway.serve import Running


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
