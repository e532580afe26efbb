"""`Idempotency-Key`: done once, answered alike."""

import asyncio
from typing import Any

import httpx
import pytest
from gateway_rig import Register, calling, held, settings_for, until_ready
from recording import Recorder, now_ms

from broker.gateway.idempotency import fingerprint
from broker.gateway.serve import Running
from broker.store import idempotency
from schema.errors import StreamsUnavailable
from schema.ids import new_id
from schema.message import SendRequest

DAY_MS = 24 * 3600 * 1000


def keyed(key: str) -> dict[str, str]:
    return {"Idempotency-Key": key}


async def send(http: httpx.AsyncClient, key: str, body: Any = None, **query: Any) -> httpx.Response:
    given = {"to_agent_id": "to", "content": {"n": 1}} if body is None else body
    return await http.post("/api/messages", json=given, headers=keyed(key), params=query)


async def recorded(gateway: Running) -> int:
    count: int = await gateway.services.pool.fetch_value("SELECT count(*) FROM agent_messages")
    return count


async def test_the_same_key_and_body_get_the_first_reply(
    gateway: Running, http: httpx.AsyncClient, register: Register, recorder: Recorder
) -> None:
    await register("to")
    first = await send(http, "key 1")
    assert first.status_code == 201
    assert "Idempotent-Replayed" not in first.headers
    # What became of the message since does not matter: it is the first reply.
    message_id = first.json()["id"]
    done = await http.put(f"/api/messages/{message_id}/status", json={"status": "processed"})
    assert done.status_code == 200
    again = await send(http, "key 1")
    assert (again.status_code, again.content) == (first.status_code, first.content)
    assert again.headers["Idempotent-Replayed"] == "true"
    assert again.headers["Location"] == first.headers["Location"]
    other = await send(http, "key 2")
    assert other.json()["id"] != message_id
    assert await recorded(gateway) == 2


async def test_equal_json_is_the_same_body_and_other_json_is_not(
    http: httpx.AsyncClient, register: Register, recorder: Recorder
) -> None:
    await register("to")
    raw = b'{"to_agent_id": "to", "content": {"a": 1, "b": [1, 2]}}'
    same = b'{ "content" : {"b":[1,2],"a":1},\n"to_agent_id":"to" }'
    other = b'{"to_agent_id": "to", "content": {"a": 1, "b": [2, 1]}}'
    replies = [
        await http.post("/api/messages", content=content, headers=keyed("k"))
        for content in (raw, same, other)
    ]
    assert [reply.status_code for reply in replies] == [201, 201, 422]
    assert replies[0].json()["id"] == replies[1].json()["id"]
    assert replies[2].json()["error"]["code"] == "idempotency_mismatch"
    assert replies[2].json()["error"]["field"] == "Idempotency-Key"


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there", "caf\xe9", "\xae\x80"], ids=range(5))
async def test_a_key_that_is_none_is_refused(http: httpx.AsyncClient, register: Register, key: str) -> None:
    await register("to")
    reply = await http.post(
        "/api/messages", json={"to_agent_id": "to"}, headers=[(b"Idempotency-Key", key.encode("latin-1"))]
    )
    assert reply.status_code == 422, reply.text
    assert reply.json()["error"]["field"] == "Idempotency-Key"


async def test_everybody_has_keys_of_their_own(
    gateway: Running, http: httpx.AsyncClient, register: Register, recorder: Recorder
) -> None:
    await register("to")
    a, b = await register("a"), await register("b")
    ids = set()
    async with calling(gateway, a["api_key"]) as as_a, calling(gateway, b["api_key"]) as as_b:
        for reply in (
            await send(as_a, "shared"),
            await send(as_b, "shared"),
            await send(http, "shared"),
            # The operator acting for an agent has that agent's keys.
            await send(http, "shared", from_agent_id="a"),
        ):
            assert reply.status_code == 201, reply.text
            ids.add(reply.json()["id"])
    assert len(ids) == 3
    assert await recorded(gateway) == 3


async def test_it_holds_across_gateways_and_at_the_same_time(
    gateway: Running,
    http: httpx.AsyncClient,
    register: Register,
    recorder: Recorder,
    streams_url: str,
    database_url: str,
) -> None:
    await register("to")
    async with held(settings_for(streams_url, database_url)) as second:
        await until_ready(second)
        async with calling(second) as other:
            replies = await asyncio.gather(*(send(client, "k") for client in (http, other) * 4))
    assert {reply.status_code for reply in replies} == {201}
    assert len({reply.content for reply in replies}) == 1
    assert [reply.headers.get("Idempotent-Replayed") for reply in replies].count(None) == 1
    assert await recorded(gateway) == 1


async def test_a_retry_after_a_crash_between_claim_and_publish_sends_once(
    gateway: Running,
    http: httpx.AsyncClient,
    register: Register,
    recorder: Recorder,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await register("to")
    publish = gateway.services.publish

    async def fail(*_: Any, **__: Any) -> None:
        raise StreamsUnavailable("cut off")

    monkeypatch.setattr(gateway.services, "publish", fail)
    assert (await send(http, "k")).status_code == 503
    claimed = await gateway.services.pool.fetch_value("SELECT target_id::text FROM idempotency_keys")

    async def publish_and_fail(*given: Any, **more: Any) -> None:
        await publish(*given, **more)
        raise StreamsUnavailable("the reply was lost")

    monkeypatch.setattr(gateway.services, "publish", publish_and_fail)
    assert (await send(http, "k")).status_code == 503
    monkeypatch.setattr(gateway.services, "publish", publish)
    retried = await send(http, "k")
    assert retried.status_code == 201
    assert retried.json()["id"] == claimed
    assert await recorded(gateway) == 1


async def test_a_refused_request_leaves_its_key_free(
    http: httpx.AsyncClient, register: Register, recorder: Recorder
) -> None:
    assert (await send(http, "k")).json()["error"]["code"] == "unknown_recipient"
    assert (await send(http, "k", {"to_agent_id": "to", "priority": 11})).status_code == 422
    await register("to")
    sent = await send(http, "k")
    assert sent.status_code == 201
    assert "Idempotent-Replayed" not in sent.headers


async def test_an_id_of_ones_own_is_kept(
    http: httpx.AsyncClient, register: Register, recorder: Recorder
) -> None:
    await register("to")
    own = new_id()
    for _ in range(2):
        reply = await send(http, "k", {"to_agent_id": "to", "id": own})
        assert (reply.status_code, reply.json()["id"]) == (201, own)


async def test_after_a_day_a_key_is_free_again(
    gateway: Running, http: httpx.AsyncClient, register: Register, recorder: Recorder
) -> None:
    await register("to")
    first = await send(http, "k")
    await gateway.services.pool.execute(
        "UPDATE idempotency_keys SET claimed_at = claimed_at - interval '24 hours 1 second'"
    )
    second = await send(http, "k", {"to_agent_id": "to", "content": {"n": 2}})
    assert second.status_code == 201
    assert second.json()["id"] != first.json()["id"]


async def test_with_postgres_away_only_requests_with_a_key_are_refused(
    gateway: Running, http: httpx.AsyncClient, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    to = await register("to")
    body = {"to_agent_id": to["id"], "content": {}}
    # Only the statement of the claim fails: what else needs Postgres is another matter.
    monkeypatch.setattr(idempotency, "_CLAIM", "SELECT * FROM gone WHERE $1 = $2 AND $3 = $4 AND $5")
    refused = await send(http, "k", body, wait="accepted")
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "store_unavailable")
    assert int(refused.headers["Retry-After"]) > 0
    assert (await http.post("/api/messages", json=body, params={"wait": "accepted"})).status_code == 202


async def test_a_claim_that_was_given_up_meanwhile_is_made_again(gateway: Running) -> None:
    pool = gateway.services.pool
    made = await idempotency.claim(pool, b"k", b"body", target_id=new_id(), now_ms=now_ms())
    await idempotency.release(pool, made)
    again = await idempotency.claim(pool, b"k", b"other", target_id=new_id(), now_ms=now_ms())
    assert (again.body, again.answer) == (b"other", None)
    # A reply to the claim that was given up is nobody's.
    given = idempotency.Answer(201, b"{}", [])
    assert await idempotency.answer(pool, made, given) is given
    assert await pool.fetch_value("SELECT status FROM idempotency_keys") is None


def test_the_fingerprint_is_of_what_is_asked_not_of_how_it_is_written() -> None:
    one = SendRequest(to_agent_id="a")
    assert fingerprint(one) == fingerprint(SendRequest(to_agent_id="a", priority=5))
    assert fingerprint(one) != fingerprint(SendRequest(to_agent_id="b"))
