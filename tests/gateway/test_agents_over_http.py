"""Registering, showing and listing agents over HTTP."""

from typing import Any

import httpx
import pytest
from gateway_rig import Register

from broker.core import keys


async def test_registration_returns_the_agent_and_its_secrets_once(http: httpx.AsyncClient) -> None:
    reply = await http.post(
        "/api/agents",
        json={
            "name": "scraper_honda",
            "type": "scraper",
            "endpoint": "http://127.0.0.1:9000/hook",
            "capabilities": ["scrape", "honda", "scrape"],
            "status": "active",
            "max_concurrent_jobs": 3,
            "signing_secret": None,
            "unknown": "is ignored",
        },
    )
    assert reply.status_code == 201, reply.text
    agent = reply.json()
    assert agent["capabilities"] == ["scrape", "honda"]
    assert (agent["is_online"], agent["heartbeat_at"]) == (False, None)
    assert agent["signing_secret"].startswith("whsec_")
    assert keys.key_id_of(agent["api_key"]) is not None
    for reference in (agent["id"], agent["id"].upper(), "scraper_honda"):
        shown = (await http.get(f"/api/agents/{reference}")).json()
        assert shown == {k: v for k, v in agent.items() if k not in ("api_key", "signing_secret")}


async def test_a_name_is_taken_once(http: httpx.AsyncClient, register: Register) -> None:
    await register("one")
    reply = await http.post("/api/agents", json={"name": "one"})
    assert reply.status_code == 409
    assert reply.json()["error"]["code"] == "name_taken"


async def test_every_fault_of_a_registration_is_told_at_once(http: httpx.AsyncClient) -> None:
    reply = await http.post(
        "/api/agents",
        json={
            "name": "0190a0b1-0000-7000-8000-000000000000",
            "type": 7,
            "endpoint": "ftp://host/",
            "capabilities": ["ok", " padded", "tab\t"],
            "status": "asleep",
            "max_concurrent_jobs": 0,
            "accepts": ["fine", 3],
            "retry_schedule": "never",
            "signing_secret": "short",
        },
    )
    assert reply.status_code == 422
    error = reply.json()["error"]
    assert {fault["field"] for fault in error["details"]} == {
        "name",
        "type",
        "endpoint",
        "capabilities[1]",
        "capabilities[2]",
        "status",
        "max_concurrent_jobs",
        "accepts[1]",
        "retry_schedule",
        "signing_secret",
    }
    assert error["code"] == "invalid"
    assert error["request_id"] == reply.headers["X-Request-Id"]


@pytest.mark.parametrize(
    ("body", "field", "code"),
    [
        ({}, "name", "invalid"),
        ({"name": ""}, "name", "invalid"),
        ({"name": "a/b"}, "name", "invalid"),
        ({"name": ".."}, "name", "invalid"),
        ({"name": "x" * 129}, "name", "invalid"),
        ({"name": "line\nbreak"}, "name", "invalid"),
        ({"name": "a", "endpoint": "http://10.0.0.1/"}, "endpoint", "address_denied"),
        ({"name": "a", "endpoint": "http://169.254.169.254/latest"}, "endpoint", "address_denied"),
        ({"name": "a", "capabilities": ["x" * 65]}, "capabilities[0]", "invalid"),
        ({"name": "a", "capabilities": [str(n) for n in range(257)]}, "capabilities", "invalid"),
    ],
)
async def test_a_bad_registration_names_its_field(
    http: httpx.AsyncClient, body: dict[str, Any], field: str, code: str
) -> None:
    reply = await http.post("/api/agents", json=body)
    assert reply.status_code == 422
    assert (reply.json()["error"]["field"], reply.json()["error"]["code"]) == (field, code)


async def test_a_heartbeat_puts_an_agent_online_everywhere_at_once(
    http: httpx.AsyncClient, register: Register
) -> None:
    agent = await register("pulse")
    await register("silent")
    assert (await http.get("/api/agents?online=true")).json() == []
    beat = (await http.post("/api/agents/pulse/heartbeat")).json()
    assert (beat["agent_id"], beat["is_online"]) == (agent["id"], True)
    assert [one["name"] for one in (await http.get("/api/agents?online=true")).json()] == ["pulse"]
    assert [one["name"] for one in (await http.get("/api/agents?online=false")).json()] == ["silent"]
    assert (await http.get("/api/agents/pulse")).json()["heartbeat_at"] == beat["heartbeat_at"]


async def test_agents_are_listed_in_pages_that_cover_each_once(
    http: httpx.AsyncClient, register: Register
) -> None:
    wanted = [(await register(f"agent {n}", type="t", capabilities=["a", "b"]))["id"] for n in range(5)]
    await register("other", type="t", capabilities=["a"])
    await register("another", type="u", capabilities=["a", "b"])
    found, url = [], "/api/agents?type=t&capability=a&capability=b&limit=2&status=active&cursor="
    while url:
        reply = await http.get(url)
        found += [agent["id"] for agent in reply.json()]
        url = reply.links["next"]["url"] if "next" in reply.links else ""
        assert ("X-Next-Cursor" in reply.headers) == bool(url)
    assert found == wanted


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=x", "limit"),
        ("status=odd", "status"),
        ("online=perhaps", "online"),
        ("cursor=junk", "cursor"),
        ("type=%00", "type"),
    ],
)
async def test_a_bad_query_names_its_parameter(http: httpx.AsyncClient, query: str, field: str) -> None:
    reply = await http.get(f"/api/agents?{query}")
    assert reply.status_code == 422
    assert reply.json()["error"]["field"] == field


@pytest.mark.parametrize("reference", ["nobody", "0190a0b1-0000-7000-8000-000000000000", "%00", "x" * 300])
async def test_an_agent_that_is_not_there_is_404(http: httpx.AsyncClient, reference: str) -> None:
    assert (await http.get(f"/api/agents/{reference}")).status_code == 404
    assert (await http.post(f"/api/agents/{reference}/heartbeat")).status_code == 404
