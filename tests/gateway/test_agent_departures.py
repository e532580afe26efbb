"""Deleting agents over HTTP: what is true at once. What becomes of what waited is the keeper's."""

import httpx
from gateway_rig import Register, calling

from broker.gateway.serve import Running
from broker.streams.connection import open_connection
from broker.streams.keys import Keys
from broker.streams.registry import RegistryFollower
from schema.ids import shard_of
from schema.message import Lane


async def test_a_deleted_agent_is_gone_at_once_and_its_name_is_free(
    gateway: Running, streams_url: str, http: httpx.AsyncClient, register: Register
) -> None:
    agent = await register("one")
    await register("other")
    async with (
        await open_connection(streams_url, name="test") as connection,
        calling(gateway, agent["api_key"]) as client,
    ):
        keys = Keys(shard_of(agent["id"], gateway.services.settings.shards))
        for lane in (Lane.HIGH, Lane.LOW):
            await connection.send("XADD", keys.mailbox(agent["id"], lane), "*", "m", "waits")
        follower = RegistryFollower(connection)
        await follower.start()
        reply = await client.delete("/api/agents/one")
        assert (reply.status_code, reply.json()) == (
            202,
            {
                "agent_id": agent["id"],
                "name": "one",
                "mode": "bounce",
                "status": "deleted",
                "waiting": 2,
                "drains_until": None,
            },
        )
        assert await follower.read() == {agent["id"]}
        assert (await client.get("/api/agents/other")).status_code == 401
    for reference in ("one", agent["id"]):
        assert (await http.get(f"/api/agents/{reference}")).status_code == 404
        assert (await http.delete(f"/api/agents/{reference}")).status_code == 404
        reply = await http.post("/api/messages", json={"to_agent_id": reference})
        assert (reply.status_code, reply.json()["error"]["code"]) == (422, "unknown_recipient")
    assert [one["name"] for one in (await http.get("/api/agents")).json()] == ["other"]
    again = await register("one")
    assert again["id"] != agent["id"]


async def test_a_draining_agent_takes_nothing_new_and_can_be_called_back(
    gateway: Running, http: httpx.AsyncClient, register: Register
) -> None:
    agent = await register("one")
    async with calling(gateway, agent["api_key"]) as client:
        reply = await client.delete("/api/agents/one?mode=drain&timeout_s=60")
        assert (reply.status_code, reply.json()["status"]) == (202, "draining")
        shown = (await client.get("/api/agents/one")).json()
        assert (shown["status"], shown["drains_until"]) == ("disabled", reply.json()["drains_until"])
        assert (await client.patch("/api/agents/one", json={"status": "active"})).status_code == 403
    refused = await http.post("/api/messages", json={"to_agent_id": "one"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (422, "recipient_disabled")
    back = await http.patch("/api/agents/one", json={"status": "active"})
    assert (back.json()["status"], back.json()["drains_until"]) == ("active", None)
    accepted = await http.post("/api/messages?wait=accepted", json={"to_agent_id": "one"})
    assert accepted.status_code == 202


async def test_an_agent_that_was_switched_off_does_not_drain_itself(
    gateway: Running, http: httpx.AsyncClient, register: Register
) -> None:
    agent = await register("off", status="disabled")
    async with calling(gateway, agent["api_key"]) as client:
        assert (await client.delete("/api/agents/off?mode=drain")).status_code == 403
    assert (await http.delete("/api/agents/off?mode=drain")).status_code == 202
    async with calling(gateway, agent["api_key"]) as client:
        assert (await client.delete("/api/agents/off?mode=drain")).status_code == 202


async def test_a_disabled_recipient_is_told_before_anything_is_published(
    http: httpx.AsyncClient, register: Register
) -> None:
    await register("off", status="disabled")
    reply = await http.post("/api/messages", json={"to_agent_id": "off"})
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["field"]) == (422, "recipient_disabled", "to_agent_id")


async def test_a_bad_query_deletes_nothing(http: httpx.AsyncClient, register: Register) -> None:
    await register("one")
    for query in ("mode=vanish", "timeout_s=-1", "timeout_s=9999999"):
        reply = await http.delete(f"/api/agents/one?{query}")
        assert (reply.status_code, reply.json()["error"]["field"]) == (422, query.partition("=")[0])
    assert (await http.get("/api/agents/one")).status_code == 200


async def test_one_agent_cannot_delete_another(
    gateway: Running, http: httpx.AsyncClient, register: Register
) -> None:
    await register("one")
    other = await register("other")
    async with calling(gateway, other["api_key"]) as client:
        reply = await client.delete("/api/agents/one")
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "agent_mismatch")
    assert (await http.get("/api/agents/one")).status_code == 200
