"""Pings over HTTP: left in the inbox also of an agent that is not there."""

import json
from typing import Any

import httpx
from gateway_rig import Register, calling, held, settings_for
from recording import Recorder

from broker.gateway.serve import Running

API = "/api/v1/messaging"


async def ping(http: httpx.AsyncClient, sender: str | None = "sender", **body: Any) -> httpx.Response:
    params = {} if sender is None else {"from_agent_id": sender}
    return await http.post(f"{API}/ping", params=params, json=body)


async def inbox(http: httpx.AsyncClient, reference: str) -> list[Any]:
    messages: list[Any] = (await http.get("/api/messages", params={"to_agent_id": reference})).json()
    return messages


async def test_a_ping_waits_for_an_agent_that_is_not_there(
    http: httpx.AsyncClient, register: Register, recorder: Recorder
) -> None:
    sender = await register("sender")
    target = await register("target", status_message="back on monday", accepts_work_orders=False)
    reply = await ping(http, to_agent_id="target", message="are you there?")
    assert reply.status_code == 200, reply.text
    body = reply.json()
    assert body["success"] is True
    assert body["target_agent"] == {
        "id": target["id"],
        "name": "target",
        "is_online": False,
        "status_message": "back on monday",
        "accepts_work_orders": False,
        "state": "gone",
    }
    (message,) = await inbox(http, "target")
    assert message["id"] == body["message_id"]
    assert (message["message_type"], message["status"]) == ("ping", "pending")
    assert (message["from_agent_id"], message["to_agent_id"]) == (sender["id"], target["id"])
    assert message["content"] == {"message": "are you there?"}


async def test_names_ids_and_an_agents_own_key_all_say_who_pings_whom(
    gateway: Running, http: httpx.AsyncClient, register: Register, recorder: Recorder
) -> None:
    sender, target = await register("sender"), await register("target")
    await http.post(f"{API}/heartbeat?agent_id=target")
    replies = [
        await ping(http, sender["id"], to_agent_id=target["id"].upper()),
        await ping(http, "sender", to_agent_id="target", message=None),
    ]
    async with calling(gateway, sender["api_key"]) as own:
        replies += [
            await ping(own, None, to_agent_id="target"),
            await ping(own, "sender", to_agent_id="target"),
        ]
    assert [reply.status_code for reply in replies] == [200] * 4
    assert {reply.json()["target_agent"]["is_online"] for reply in replies} == {True}
    messages = await inbox(http, "target")
    assert {message["from_agent_id"] for message in messages} == {sender["id"]}
    assert [message["content"] for message in messages] == [{"message": None}] * 4


REFUSED: list[tuple[str | None, dict[str, Any], int, str, str | None]] = [
    (None, {"to_agent_id": "target"}, 422, "invalid", "from_agent_id"),
    ("nobody", {"to_agent_id": "target"}, 422, "invalid", "from_agent_id"),
    ("sender", {"to_agent_id": "nobody"}, 422, "unknown_recipient", "to_agent_id"),
    ("sender", {"to_agent_id": "sender"}, 422, "invalid", "to_agent_id"),
    ("sender", {}, 422, "invalid", "to_agent_id"),
    ("sender", {"to_agent_id": "target", "message": "x" * 1_001}, 422, "invalid", "message"),
    ("sender", {"to_agent_id": "target", "message": 7}, 422, "invalid", "message"),
    ("sender", {"to_agent_id": "shy"}, 403, "not_a_contact", None),
    ("sender", {"to_agent_id": "shut"}, 403, "not_a_contact", None),
]


async def test_a_ping_that_is_refused_leaves_nothing(
    http: httpx.AsyncClient, register: Register, recorder: Recorder
) -> None:
    await register("sender")
    await register("target")
    await register("shy", contact_policy="contacts_only")
    await register("shut", contact_policy="closed")
    for sender, body, status, code, field in REFUSED:
        reply = await ping(http, sender, **body)
        error = reply.json()["error"]
        assert (reply.status_code, error["code"], error.get("field")) == (status, code, field), body
    assert not recorder.seen


async def test_a_ping_of_the_longest_message_and_in_any_alphabet_arrives(
    http: httpx.AsyncClient, register: Register, recorder: Recorder
) -> None:
    await register("sender")
    await register("target")
    text = "\N{SNOWMAN}" * 1_000
    reply = await ping(http, to_agent_id="target", message=text)
    assert reply.status_code == 200
    (message,) = await inbox(http, "target")
    assert message["content"] == json.loads(json.dumps({"message": text}))


async def test_another_agents_name_is_a_mismatch_and_no_key_is_no_ping(
    gateway: Running, http: httpx.AsyncClient, register: Register
) -> None:
    sender = await register("sender")
    await register("target")
    async with calling(gateway, sender["api_key"]) as own:
        reply = await ping(own, "target", to_agent_id="sender")
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "agent_mismatch")
    async with calling(gateway, None) as stranger:
        assert (await ping(stranger, to_agent_id="target")).status_code == 401


async def test_without_redis_a_ping_is_503(database_url: str) -> None:
    settings = settings_for("redis://127.0.0.1:1/0", database_url)
    async with held(settings) as gateway, calling(gateway) as http:
        for name in ("sender", "target"):
            await http.post("/api/agents", json={"name": name})
        reply = await ping(http, to_agent_id="target")
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "streams_unavailable")
        assert "Retry-After" in reply.headers
