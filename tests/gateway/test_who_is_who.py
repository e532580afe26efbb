"""Names and ids as claims: every way to spell somebody else is somebody else. And what a run writes down."""

from typing import Any

import httpx
import pytest
from gateway_rig import OPERATOR_KEY, Register, calling

from broker.gateway.coordination import inbox
from broker.gateway.serve import Running
from broker.telemetry.metrics import render

INBOX = "/api/v1/messaging/inbox"


async def _claims(client: httpx.AsyncClient, claim: str) -> set[tuple[int, str | None]]:
    """Make a claim in every place there is for one; return status and code of each reply."""
    header = {"X-Agent-Id": claim.encode()}
    replies = [
        await client.get(INBOX, params={"agent_id": claim}),
        await client.get(INBOX, headers=header),
        await client.get("/api/agents", headers=header),
        await client.post("/api/messages?wait=accepted", json={"to_agent_id": "c", "from_agent_id": claim}),
        await client.post("/api/messages/batch", json=[{"to_agent_id": "c"}], headers=header),
        await client.post(f"/api/v1/messaging/heartbeat?agent_id={claim}"),
    ]
    return {
        (one.status_code // 100, one.json()["error"]["code"] if one.is_error else None) for one in replies
    }


async def test_no_spelling_of_another_agent_is_oneself_and_every_spelling_of_oneself_is(
    gateway: Running, register: Register
) -> None:
    a, b, _ = [await register(name) for name in ("é", "b", "c")]
    async with calling(gateway, a["api_key"]) as client:
        for own in ("é", a["id"], a["id"].upper()):
            assert await _claims(client, own) == {(2, None)}, own
        for other in ("b", b["id"], b["id"].upper(), "e\u0301", "É", "nobody", "*", "\u212a"):
            assert await _claims(client, other) == {(4, "agent_mismatch")}, other


async def test_a_name_goes_with_its_agent_not_with_who_had_it(
    gateway: Running, http: httpx.AsyncClient, register: Register
) -> None:
    a, b, _ = [await register(name) for name in "abc"]
    async with calling(gateway, a["api_key"]) as was_a, calling(gateway, b["api_key"]) as was_b:
        assert await _claims(was_a, "a") == {(2, None)}
        assert (await was_a.patch("/api/agents/a", json={"name": "z"})).status_code == 200
        assert (await was_b.patch("/api/agents/b", json={"name": "a"})).status_code == 200
        assert await _claims(was_a, "a") == {(4, "agent_mismatch")}
        assert await _claims(was_b, "a") == {(2, None)}
        assert (await http.delete("/api/agents/a")).status_code == 202
        again = await register("a")
        assert {status for status, _ in await _claims(was_b, "a")} == {4}
        assert (await was_b.get("/api/agents")).status_code == 401
        async with calling(gateway, again["api_key"]) as new:
            assert await _claims(new, "a") == {(2, None)}
            assert await _claims(new, b["id"]) == {(4, "agent_mismatch")}


@pytest.mark.parametrize("name", ["e\u0301", "\uff41dmin", "\u2126", "a\u200bb", "\u202eab"])
async def test_a_name_that_only_looks_like_another_is_refused(
    gateway: Running, http: httpx.AsyncClient, register: Register, name: str
) -> None:
    a = await register("a")
    async with calling(gateway, a["api_key"]) as client:
        assert (await client.patch("/api/agents/a", json={"name": name})).status_code == 422
    assert (await http.post("/api/agents", json={"name": name})).status_code == 422


async def test_no_secret_is_logged_or_measured(
    gateway: Running,
    http: httpx.AsyncClient,
    register: Register,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def broken(*_: Any) -> Any:
        raise RuntimeError("a bug")

    hook = "http://127.0.0.1:9/hook?token=endpoint-token"
    agent = await register("a", endpoint=hook)
    rotated = (await http.post("/api/agents/a/signing-secret/rotate")).json()["signing_secret"]
    monkeypatch.setattr(inbox, "_whose", broken)
    async with calling(gateway, agent["api_key"]) as client:
        reply = await client.get(INBOX, params={"cursor": "query-secret"})
        assert reply.status_code == 500
        await client.post("/api/messages", json={"to_agent_id": "a", "content": {"x": "body-secret"}})
        await client.post("/api/messages", json={"to_agent_id": "b", "content": {"x": "body-secret"}})
    told = reply.text + render().decode() + "".join(capfd.readouterr())
    assert "gateway.failed" in told
    secrets = (OPERATOR_KEY, agent["api_key"], agent["signing_secret"], rotated)
    for secret in (*secrets, "endpoint-token", "query-secret", "body-secret"):
        assert secret not in told, secret
