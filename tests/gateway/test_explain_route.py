"""A dry run of routing over HTTP: who would get a message, and why not the others."""

from typing import Any, Final

import httpx
import pytest
from gateway_rig import Register, calling

from broker.gateway import explaining
from broker.gateway.serve import Running
from schema.ids import new_id

TASK = {"content": {"requirements": ["scrape", "honda"]}, "message_type": "task"}


async def explained(http: httpx.AsyncClient, body: dict[str, Any]) -> Any:
    reply = await http.post("/api/route/explain", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


async def test_it_says_who_would_get_a_task_and_what_drops_the_others(
    gateway: Running, http: httpx.AsyncClient, register: Register
) -> None:
    both = {"capabilities": ["scrape", "honda"]}
    sender = await register("sender", **both)
    chosen = await register("chosen", **both)
    dropped = {
        "paused": await register("paused", status="paused", **both),
        "silent": await register("silent", **both),
        "choosy": await register("choosy", accepts=["question"], **both),
        "closed": await register("closed", allow_from=[], **both),
        "sender": sender,
    }
    await register("half", capabilities=["scrape"])
    await gateway.services.pool.execute(
        "UPDATE agents SET created_at = 'epoch', updated_at = 'epoch' WHERE name = 'silent'"
    )
    found = await explained(http, TASK | {"from_agent_id": "sender"})
    assert (found["by"], found["outcome"], found["reason"]) == ("capability", "chosen", "two_choices")
    assert found["to_agent_id"] == chosen["id"]
    assert found["requirements"] == ["scrape", "honda"]
    assert found["having"] == {"scrape": 7, "honda": 6}
    assert found["remaining"] == {
        "registered": 7,
        "capable": 6,
        "active": 5,
        "heard": 4,
        "accepting": 3,
        "allowed": 2,
        "examined": 6,
        "below_capacity": 1,
    }
    why = {candidate["name"]: candidate["dropped_by"] for candidate in found["candidates"]}
    assert why == {
        "chosen": None,
        "paused": "not_active",
        "silent": "silent",
        "choosy": "type_not_accepted",
        "closed": "sender_not_allowed",
        "sender": "is_sender",
    }
    assert {dropped[name]["id"] for name in dropped} == {
        candidate["agent_id"] for candidate in found["candidates"] if not candidate["chosen"]
    }
    assert "routers only" in found["notes"][0]


async def test_a_heartbeat_in_redis_counts(
    gateway: Running, http: httpx.AsyncClient, register: Register
) -> None:
    await register("one", capabilities=["scrape", "honda"])
    await gateway.services.pool.execute("UPDATE agents SET created_at = 'epoch', updated_at = 'epoch'")
    assert (await explained(http, TASK))["reason"] == "nobody_online"
    await http.post("/api/agents/one/heartbeat")
    assert (await explained(http, TASK))["reason"] == "only_one"


async def test_nobody_capable_means_it_would_wait(http: httpx.AsyncClient, register: Register) -> None:
    await register("half", capabilities=["scrape"])
    found = await explained(http, TASK)
    assert (found["outcome"], found["reason"], found["to_agent_id"]) == ("parked", "nobody_capable", None)
    assert (found["having"], found["candidates"]) == ({"scrape": 1, "honda": 0}, [])


async def test_what_has_expired_would_be_refused(http: httpx.AsyncClient, register: Register) -> None:
    await register("one", capabilities=["scrape", "honda"])
    old = {"expires_at": "2020-01-01T00:00:00Z"}
    found = await explained(http, TASK | old)
    assert (found["outcome"], found["reason"], found["to_agent_id"]) == ("refused", "expired", None)
    found = await explained(http, {"to_agent_id": "one"} | old)
    assert (found["outcome"], found["reason"]) == ("refused", "expired")


NAMED: Final[list[tuple[dict[str, Any], str, str, str | None]]] = [
    ({"endpoint": "http://127.0.0.1:9000/"}, "chosen", "named_recipient", "nobody is chosen"),
    ({}, "chosen", "named_recipient", "no endpoint"),
    ({"status": "paused"}, "chosen", "named_recipient", "paused"),
    ({"status": "disabled"}, "refused", "recipient_disabled", None),
    ({"allow_from": []}, "refused", "sender_not_allowed", None),
]
"""A recipient, what would become of a message to it and why, a word of the notes."""


async def test_a_named_recipient_is_judged_by_itself(http: httpx.AsyncClient, register: Register) -> None:
    for number, (agent, outcome, reason, note) in enumerate(NAMED):
        one = await register(f"agent {number}", **agent)
        found = await explained(http, {"to_agent_id": one["name"]})
        assert (found["by"], found["outcome"], found["reason"]) == ("name", outcome, reason)
        assert (found["to_agent_id"], found["candidates"], found["remaining"]) == (one["id"], [], None)
        assert note is None or any(note in text for text in found["notes"])


async def test_an_unknown_recipient_is_an_answer_too(http: httpx.AsyncClient) -> None:
    found = await explained(http, {"to_agent_id": "nobody"})
    assert (found["outcome"], found["reason"], found["to_agent_id"]) == ("refused", "unknown_recipient", None)


async def test_what_is_no_message_is_refused_as_when_it_is_sent(http: httpx.AsyncClient) -> None:
    for body, field in (
        ({}, "to_agent_id"),
        ({"requirements": ["a", " b"]}, "requirements[1]"),
        ({"priority": 0}, "priority"),
    ):
        for path in ("/api/route/explain", "/api/messages"):
            reply = await http.post(path, json=body)
            assert reply.status_code == 422
            assert field in [fault["field"] for fault in reply.json()["error"]["details"]]


async def test_nobody_explains_in_the_name_of_another(gateway: Running, register: Register) -> None:
    one = await register("one")
    await register("other")
    async with calling(gateway, one["api_key"]) as client:
        reply = await client.post("/api/route/explain", json={"to_agent_id": "one", "from_agent_id": "other"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "agent_mismatch")


async def test_only_so_many_capable_agents_are_looked_at(
    http: httpx.AsyncClient, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(explaining, "EXPLAINED_EXAMINED_MAX", 2)
    for name in ("a", "b", "c"):
        await register(name, capabilities=["scrape", "honda"])
    found = await explained(http, TASK)
    assert (found["having"]["honda"], found["remaining"]["capable"]) == (3, 2)
    assert any("2 were looked at" in note for note in found["notes"])


async def test_nothing_is_sent(gateway: Running, http: httpx.AsyncClient, register: Register) -> None:
    await register("one", capabilities=["scrape", "honda"])
    connection = await gateway.services.link.get()
    before = await connection.send("KEYS", "*ingress*")
    await explained(http, TASK | {"id": new_id()})
    assert await connection.send("KEYS", "*ingress*") == before == []
