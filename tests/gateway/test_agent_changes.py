"""Changing agents over HTTP: what a patch may say, who may, and what follows from it."""

import asyncio
from datetime import datetime
from typing import Any

import httpx
from gateway_rig import Register, calling, held, settings_for, until_ready
from msgspec.structs import replace

from broker.gateway.serve import Running
from broker.store import agents as stored_agents
from broker.streams.connection import open_connection
from broker.streams.keys import Keys
from broker.streams.registry import RegistryFollower
from schema.agent import Agent, EndpointFault
from schema.ids import new_id, shard_of
from schema.message import Lane

HOOK = "http://127.0.0.1:9000/hook"
WHOLE: dict[str, Any] = {
    "name": "another",
    "type": "scraper",
    "endpoint": HOOK,
    "capabilities": ["b", "a", "b"],
    "status": "paused",
    "max_concurrent_jobs": 3,
    "accepts": ["task"],
    "allow_from": [],
    "ordered": True,
    "retry_schedule": "webhook",
    "status_message": "back soon",
    "accepts_work_orders": False,
    "contact_policy": "closed",
    "max_pushes_per_second": 20,
}


async def test_every_field_changes_by_itself_and_the_rest_stays(
    http: httpx.AsyncClient, register: Register
) -> None:
    agent = await register("one", capabilities=["x"], endpoint="http://127.0.0.1:1/")
    expected = (await http.get(f"/api/agents/{agent['id']}")).json()
    for field, value in WHOLE.items():
        reply = await http.patch(f"/api/agents/{agent['id']}", json={field: value})
        assert reply.status_code == 200, reply.text
        expected[field] = ["b", "a"] if field == "capabilities" else value
        assert datetime.fromisoformat(reply.json()["updated_at"]) > datetime.fromisoformat(
            expected["updated_at"]
        )
        expected["updated_at"] = reply.json()["updated_at"]
        assert reply.json() == expected
    assert (await http.get("/api/agents/another")).json() == expected
    assert (await http.get("/api/agents/one")).status_code == 404


async def test_null_takes_away(http: httpx.AsyncClient, register: Register) -> None:
    nullable = ("endpoint", "accepts", "allow_from", "status_message", "max_pushes_per_second")
    await register("one", **{field: WHOLE[field] for field in nullable})
    for field in nullable:
        reply = await http.patch("/api/agents/one", json={field: None})
        assert (reply.status_code, reply.json()[field]) == (200, None)


async def test_an_empty_patch_and_one_that_repeats_change_nothing(
    http: httpx.AsyncClient, register: Register
) -> None:
    await register("one", type="t")
    before = (await http.get("/api/agents/one")).json()
    for body in ({}, {"type": "t"}, {"unknown": "is ignored"}):
        reply = await http.patch("/api/agents/one", json=body)
        assert (reply.status_code, reply.json()) == (200, before)


async def test_every_fault_is_told_at_once_and_nothing_changes(
    http: httpx.AsyncClient, register: Register
) -> None:
    await register("one")
    before = (await http.get("/api/agents/one")).json()
    bad = {
        "name": "a/b",
        "type": None,
        "endpoint": "ftp://host/",
        "capabilities": ["ok", " padded"],
        "status": "asleep",
        "max_concurrent_jobs": 0,
        "accepts": ["fine", 3],
        "ordered": "yes",
        "retry_schedule": "never",
        "contact_policy": "some",
        "status_message": "",
        "signing_secret": None,
        "endpoint_status": "disabled",
        "max_pushes_per_second": 0,
    }
    reply = await http.patch("/api/agents/one", json=bad | {"accepts_work_orders": False})
    assert reply.status_code == 422
    wrong = {fault["field"] for fault in reply.json()["error"]["details"]}
    assert wrong == (bad.keys() - {"capabilities", "accepts"}) | {"capabilities[1]", "accepts[1]"}
    assert (await http.get("/api/agents/one")).json() == before


async def test_a_bad_patch_says_why(http: httpx.AsyncClient, register: Register) -> None:
    await register("one")
    await register("taken")
    bad: list[tuple[Any, int, str, str | None]] = [
        ({"name": "taken"}, 409, "name_taken", "name"),
        ({"endpoint": "http://10.0.0.1/"}, 422, "address_denied", "endpoint"),
        ({"allow_from": ["nobody"]}, 422, "invalid", "allow_from[0]"),
        ({"signing_secret": "whsec_x"}, 422, "invalid", "signing_secret"),
        ([], 422, "invalid", None),
    ]
    for body, status, code, field in bad:
        reply = await http.patch("/api/agents/one", json=body)
        error = reply.json()["error"]
        assert (reply.status_code, error["code"], error.get("field")) == (status, code, field)


async def test_senders_are_allowed_by_name_and_kept_by_id(
    http: httpx.AsyncClient, register: Register
) -> None:
    friend = await register("friend")
    one = await register("one", allow_from=["friend"])
    assert one["allow_from"] == [friend["id"]]
    stranger = new_id()
    reply = await http.patch("/api/agents/one", json={"allow_from": [stranger.upper(), "friend"]})
    assert reply.json()["allow_from"] == [stranger, friend["id"]]


async def test_an_agent_that_is_not_there_is_not_found(http: httpx.AsyncClient) -> None:
    for reference in ("nobody", "0190a0b1-0000-7000-8000-000000000000"):
        for method, path in (("PATCH", ""), ("DELETE", ""), ("POST", "/signing-secret/rotate")):
            reply = await http.request(method, f"/api/agents/{reference}{path}", json={})
            assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")


async def test_only_the_operator_disables_and_enables(
    gateway: Running, http: httpx.AsyncClient, register: Register
) -> None:
    for number, (before, wanted, own) in enumerate(
        (
            ("active", "paused", 200),
            ("paused", "active", 200),
            ("active", "disabled", 403),
            ("disabled", "active", 403),
            ("disabled", "paused", 403),
            ("disabled", "disabled", 200),
        )
    ):
        agent = await register(f"agent {number}", status=before)
        path = f"/api/agents/{agent['id']}"
        async with calling(gateway, agent["api_key"]) as client:
            reply = await client.patch(path, json={"status": wanted, "status_message": "said"})
        assert reply.status_code == own, reply.text
        shown = (await http.get(path)).json()
        expected = (wanted, "said") if own == 200 else (before, None)
        assert (shown["status"], shown["status_message"]) == expected
        reply = await http.patch(path, json={"status": wanted})
        assert (reply.status_code, reply.json()["status"]) == (200, wanted)


async def test_changes_of_different_fields_at_once_all_survive(
    http: httpx.AsyncClient, register: Register
) -> None:
    await register("one")
    replies = await asyncio.gather(
        *(http.patch("/api/agents/one", json={field: WHOLE[field]}) for field in WHOLE if field != "name")
    )
    assert [reply.status_code for reply in replies] == [200] * len(replies)
    shown = (await http.get("/api/agents/one")).json()
    assert {field: shown[field] for field in WHOLE} == WHOLE | {"name": "one", "capabilities": ["b", "a"]}


async def test_a_change_is_announced_after_what_waits_is_handed_over(
    gateway: Running, streams_url: str, http: httpx.AsyncClient, register: Register
) -> None:
    agent = await register("puller")
    keys = Keys(shard_of(agent["id"], gateway.services.settings.shards))
    mailbox = keys.mailbox(agent["id"], Lane.LOW)
    async with await open_connection(streams_url, name="test") as connection:
        await connection.send("XADD", mailbox, "*", "m", "waits")
        follower = RegistryFollower(connection)
        await follower.start()
        await http.patch("/api/agents/puller", json={"type": "still a puller"})
        assert await connection.send("ZSCORE", keys.active, mailbox) is None
        assert await follower.read() == {agent["id"]}
        await http.patch("/api/agents/puller", json={"endpoint": HOOK, "status": "paused"})
        assert await connection.send("ZSCORE", keys.active, mailbox) is None
        await http.patch("/api/agents/puller", json={"status": "active"})
        assert await connection.send("ZSCORE", keys.active, mailbox) is not None
        assert await follower.read() == {agent["id"]}


async def test_another_gateway_knows_a_change_soon(
    gateway: Running, streams_url: str, database_url: str, http: httpx.AsyncClient, register: Register
) -> None:
    agent = await register("old")
    async with held(settings_for(streams_url, database_url)) as other:
        await until_ready(other)
        async with asyncio.timeout(10):
            await other.services.agents.following.wait()
        assert await other.services.agents.find("old") == agent["id"]
        await http.patch("/api/agents/old", json={"name": "new"})
        for _ in range(500):
            if await other.services.agents.find("old") is None:
                break
            await asyncio.sleep(0.01)
        record = await other.services.agents.record("new")
        assert record is not None
        assert record.id == agent["id"]


async def test_the_query_of_an_endpoint_is_shown_to_its_agent_and_the_operator_only(
    gateway: Running, http: httpx.AsyncClient, register: Register
) -> None:
    secret = "http://127.0.0.1:9000/hook?token=secret"
    own, other = await register("own", endpoint=secret), await register("other")
    seen = {}
    for key in (own["api_key"], other["api_key"]):
        async with calling(gateway, key) as client:
            listed = {one["name"]: one["endpoint"] for one in (await client.get("/api/agents")).json()}
            shown = (await client.get("/api/agents/own")).json()["endpoint"]
            assert listed == {"own": shown, "other": None}
            seen[key] = shown
    assert seen == {own["api_key"]: secret, other["api_key"]: HOOK}
    assert (await http.get("/api/agents/own")).json()["endpoint"] == secret


async def test_a_new_signing_secret_leaves_the_former_one_valid_for_a_day(
    gateway: Running, http: httpx.AsyncClient, register: Register
) -> None:
    agent = await register("one")
    async with calling(gateway, agent["api_key"]) as client:
        reply = await client.post("/api/agents/one/signing-secret/rotate")
    assert reply.status_code == 201, reply.text
    stored = await stored_agents.get(gateway.services.pool, agent["id"])
    assert stored is not None
    assert reply.json()["signing_secret"] == stored.signing_secret != agent["signing_secret"]
    assert stored.previous_secret == agent["signing_secret"]
    day_ms = 24 * 3600 * 1000
    assert abs(stored.previous_secret_until_ms - gateway.services.now_ms() - day_ms) < 60_000
    assert "secret" not in (await http.get("/api/agents/one")).text


async def test_without_redis_a_change_says_that_it_was_not_announced_and_a_deletion_is_done(
    gateway: Running, http: httpx.AsyncClient, register: Register
) -> None:
    agent = await register("one")
    await gateway.services.link.close()
    reply = await http.patch("/api/agents/one", json={"type": "changed"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "streams_unavailable")
    assert "Retry-After" in reply.headers
    assert (await http.get("/api/agents/one")).json()["type"] == "changed"
    assert (await http.post("/api/agents/one/signing-secret/rotate")).status_code == 503
    stored = await stored_agents.get(gateway.services.pool, agent["id"])
    assert stored is not None
    assert stored.signing_secret == agent["signing_secret"]
    gone = await http.delete("/api/agents/one")
    assert (gone.status_code, gone.json()["waiting"]) == (202, None)
    assert (await http.get("/api/agents/one")).status_code == 404


async def test_a_disabled_endpoint_is_shown_and_enabled_again_by_its_own_agent(
    gateway: Running, http: httpx.AsyncClient, register: Register
) -> None:
    agent = await register("one", endpoint=HOOK)
    fields = ("endpoint_status", "endpoint_disabled_reason", "endpoint_disabled_at", "endpoint_failing_since")

    async def disable() -> None:
        def disabled(agent: Agent) -> Agent:
            return replace(
                agent,
                endpoint_fault=EndpointFault.FAILING,
                endpoint_disabled_ms=1_800_000_000_000,
                endpoint_failing_ms=1_799_000_000_000,
                endpoint_warned=4,
            )

        await stored_agents.change(gateway.services.pool, agent["id"], disabled)

    async def shown() -> list[Any]:
        found = (await http.get("/api/agents/one")).json()
        return [found[field] for field in fields]

    assert await shown() == ["active", None, None, None]
    fine = await stored_agents.get(gateway.services.pool, agent["id"])
    assert fine is not None
    async with calling(gateway, agent["api_key"]) as client:
        # Enabled where it is not disabled, nothing changes: not even since when it is there.
        assert (await client.patch("/api/agents/one", json={"endpoint_status": "active"})).status_code == 200
        assert await stored_agents.get(gateway.services.pool, agent["id"]) == fine
        for change in ({"endpoint_status": "active"}, {"endpoint": HOOK + "2"}, {"endpoint": HOOK}):
            await disable()
            assert (await shown())[:2] == ["disabled", "failing"]
            # The same endpoint again is no word about its health, nor is anything else.
            current = (await http.get("/api/agents/one")).json()["endpoint"]
            await client.patch("/api/agents/one", json={"type": "x", "endpoint": current})
            assert (await shown())[0] == "disabled"
            reply = await client.patch("/api/agents/one", json=change)
            assert [reply.json()[field] for field in fields] == ["active", None, None, None]
            after = await stored_agents.get(gateway.services.pool, agent["id"])
            assert after is not None
            assert (after.endpoint_warned, after.endpoint_since_ms > fine.endpoint_since_ms) == (0, True)
        await disable()
        await client.patch("/api/agents/one", json={"endpoint": None})
        assert await shown() == [None, None, None, None]
