"""API keys of agents over HTTP: who may see, add, rotate and revoke them, and how soon it counts."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import httpx
import pytest
from gateway_rig import Register, calling, held, settings_for, until_ready

from broker.core import keys
from broker.core.signing import Signer, is_signed
from broker.gateway import key_lookups, key_use, keyring
from broker.gateway.call import AGENT_SCOPES
from broker.gateway.serve import Running
from broker.store import keys as stored_keys
from schema import limits

ALL_SCOPES = sorted(scope.value for scope in AGENT_SCOPES)
SOME = ["keys", "messages:send"]


def id_of(api_key: str) -> str:
    found = keys.key_id_of(api_key)
    assert found is not None
    return found


def in_days(days: float) -> str:
    return (datetime.now(UTC) + timedelta(days=days)).isoformat()


async def works(gateway: Running, api_key: str) -> bool:
    async with calling(gateway, api_key) as client:
        status = (await client.get("/api/agents")).status_code
    assert status in (200, 401)
    return status == 200


@pytest.fixture
async def agent(register: Register) -> Any:
    return await register("one")


@pytest.fixture
async def own(gateway: Running, agent: Any) -> AsyncIterator[httpx.AsyncClient]:
    async with calling(gateway, agent["api_key"]) as client:
        yield client


async def test_keys_are_listed_without_what_would_let_anybody_use_them(
    agent: Any, own: httpx.AsyncClient, http: httpx.AsyncClient
) -> None:
    added = (await own.post("/api/agents/one/keys", json={"scopes": SOME})).json()
    reply = await own.get("/api/agents/one/keys")
    newer, first = reply.json()
    assert (newer["id"], newer["scopes"]) == (id_of(added["api_key"]), SOME)
    assert first == {
        "id": id_of(agent["api_key"]),
        "agent_id": agent["id"],
        "prefix": agent["api_key"][:20],
        "scopes": ALL_SCOPES,
        "created_at": first["created_at"],
        "expires_at": None,
        "revoked_at": None,
        "last_used_at": None,
        "is_live": True,
        "is_current": True,
    }
    for secret in (agent["api_key"], added["api_key"]):
        assert secret[20:] not in reply.text
    listed = (await http.get(f"/api/agents/{agent['id']}/keys")).json()
    assert [key["is_current"] for key in listed] == [False, False]


async def test_a_new_key_works_and_may_do_what_it_was_given(gateway: Running, own: httpx.AsyncClient) -> None:
    reply = await own.post("/api/agents/one/keys", json={"scopes": ["messages:send"]})
    assert reply.status_code == 201, reply.text
    async with calling(gateway, reply.json()["api_key"]) as client:
        sent = await client.post("/api/messages?wait=accepted", json={"to_agent_id": "one"})
        assert sent.status_code == 202
        refused = await client.get("/api/agents/one/keys")
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "forbidden")


async def test_a_key_that_may_send_comes_with_the_one_that_signs_on_the_streams(
    gateway: Running, own: httpx.AsyncClient
) -> None:
    secrets_keys = gateway.services.settings.secrets_keys
    rotated = (await own.post("/api/agents/one/keys/rotate")).json()
    added = (await own.post("/api/agents/one/keys", json={"scopes": SOME})).json()
    for new in (rotated, added):
        signer = Signer(new["publishing_key"])
        assert signer.key_id == new["id"]
        assert is_signed(secrets_keys, new["id"].encode(), signer.fields([b"{}"])[3].encode(), [b"{}"])
    assert (await own.get("/api/agents/one/keys")).text.count("publishing_key") == 0
    mute = (await own.post("/api/agents/one/keys", json={"scopes": ["keys"]})).json()
    assert mute["publishing_key"] is None


async def test_without_a_secrets_key_no_key_signs(streams_url: str, database_url: str) -> None:
    async with held(settings_for(streams_url, database_url, secrets_key="")) as plain, calling(plain) as http:
        await until_ready(plain)
        await http.post("/api/agents", json={"name": "one"})
        assert (await http.post("/api/agents/one/keys")).json()["publishing_key"] is None


async def test_without_a_body_a_key_gets_all_the_caller_has(
    gateway: Running, own: httpx.AsyncClient, http: httpx.AsyncClient
) -> None:
    assert (await http.post("/api/agents/one/keys")).json()["scopes"] == ALL_SCOPES
    some = (await own.post("/api/agents/one/keys", json={"scopes": SOME})).json()["api_key"]
    async with calling(gateway, some) as client:
        assert (await client.post("/api/agents/one/keys")).json()["scopes"] == SOME


BEYOND: Final[list[tuple[dict[str, Any], dict[str, Any], int, str]]] = [
    ({"scopes": SOME}, {"scopes": ["keys", "agents:read"]}, 403, "scopes"),
    ({"scopes": SOME, "expires_at": in_days(1)}, {"expires_at": in_days(2)}, 403, "expires_at"),
    ({}, {"scopes": ["agents:write"]}, 422, "scopes[0]"),
    ({}, {"scopes": ["keys", "everything"]}, 422, "scopes[1]"),
    ({}, {"scopes": []}, 422, "scopes"),
    ({}, {"scopes": ["keys"] * 50}, 422, "scopes"),
    ({}, {"expires_at": in_days(-1)}, 422, "expires_at"),
    ({}, {"expires_at": "0001-01-01T00:00:00+14:00"}, 422, "expires_at"),
    ({}, {"expires_at": "tomorrow"}, 422, "expires_at"),
]
"""What a key was given, what is asked with it, the status and the field of the refusal."""


async def test_a_key_passes_on_no_more_than_it_has(gateway: Running, own: httpx.AsyncClient) -> None:
    found, expected = [], []
    for given, asked, status, field in BEYOND:
        made = (await own.post("/api/agents/one/keys", json=given)).json()["api_key"]
        async with calling(gateway, made) as client:
            reply = await client.post("/api/agents/one/keys", json=asked)
        found.append((asked, reply.status_code, reply.json()["error"]["field"]))
        expected.append((asked, status, field))
    assert found == expected


async def test_a_key_that_ends_passes_on_its_end_and_stops_working_then(
    gateway: Running, own: httpx.AsyncClient
) -> None:
    end = in_days(1)
    made = (await own.post("/api/agents/one/keys", json={"expires_at": end})).json()
    async with calling(gateway, made["api_key"]) as client:
        second = (await client.post("/api/agents/one/keys")).json()
        rotated = (await client.post("/api/agents/one/keys/rotate")).json()
    assert second["expires_at"] == rotated["expires_at"] == made["expires_at"]
    now_ms = gateway.services.now_ms()
    gateway.services.now_ms = lambda: now_ms + 25 * 3600 * 1000
    assert not await works(gateway, rotated["api_key"])


async def test_an_agent_has_so_many_keys_that_work_and_no_more(
    own: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "KEYS_LIVE_MAX", 3)
    replies = await asyncio.gather(*(own.post("/api/agents/one/keys") for _ in range(4)))
    assert sorted(reply.status_code for reply in replies) == [201, 201, 409, 409]
    made = next(reply.json() for reply in replies if reply.status_code == 201)
    full = await own.post("/api/agents/one/keys")
    assert full.json()["error"]["code"] == "too_many_keys"
    await own.delete(f"/api/agents/one/keys/{made['id']}")
    assert (await own.post("/api/agents/one/keys")).status_code == 201


async def test_rotation_leaves_the_key_that_was_used_for_the_overlap_and_no_other(
    gateway: Running, agent: Any, own: httpx.AsyncClient
) -> None:
    third = (await own.post("/api/agents/one/keys")).json()["api_key"]
    assert await works(gateway, third)
    reply = await own.post("/api/agents/one/keys/rotate", json={"overlap_s": 600})
    assert reply.status_code == 201, reply.text
    fresh = reply.json()
    assert (fresh["scopes"], fresh["expires_at"]) == (ALL_SCOPES, None)
    live = [key for key in (await own.get("/api/agents/one/keys")).json() if key["is_live"]]
    assert [key["id"] for key in live] == [fresh["id"], id_of(agent["api_key"])]
    assert live[1]["expires_at"] == fresh["previous_expires_at"]
    assert not await works(gateway, third)
    now_ms = gateway.services.now_ms()
    gateway.services.now_ms = lambda: now_ms + 601_000
    assert not await works(gateway, agent["api_key"])
    assert await works(gateway, fresh["api_key"])


async def test_rotation_without_overlap_ends_the_old_key_at_once(
    gateway: Running, agent: Any, own: httpx.AsyncClient
) -> None:
    fresh = (await own.post("/api/agents/one/keys/rotate", json={"overlap_s": 0})).json()["api_key"]
    assert (await works(gateway, agent["api_key"]), await works(gateway, fresh)) == (False, True)


async def test_rotation_never_lengthens_what_was_to_end_sooner(
    own: httpx.AsyncClient, gateway: Running
) -> None:
    made = (await own.post("/api/agents/one/keys", json={"expires_at": in_days(1)})).json()
    async with calling(gateway, made["api_key"]) as client:
        fresh = (await client.post("/api/agents/one/keys/rotate", json={"overlap_s": 604_800})).json()
    assert fresh["previous_expires_at"] == made["expires_at"]


async def test_an_operator_rotates_from_the_newest_also_where_there_is_none(
    gateway: Running, agent: Any, http: httpx.AsyncClient
) -> None:
    second = (await http.post("/api/agents/one/keys")).json()["api_key"]
    third = (await http.post("/api/agents/one/keys/rotate")).json()["api_key"]
    assert [await works(gateway, key) for key in (agent["api_key"], second, third)] == [False, True, True]
    for key in (second, third):
        await http.delete(f"/api/agents/one/keys/{id_of(key)}")
    fourth = await http.post("/api/agents/one/keys/rotate")
    assert (fourth.status_code, fourth.json()["previous_expires_at"]) == (201, None)
    assert await works(gateway, fourth.json()["api_key"])


async def test_a_bad_overlap_rotates_nothing(own: httpx.AsyncClient) -> None:
    for overlap_s in (-1, 604_801, "long"):
        reply = await own.post("/api/agents/one/keys/rotate", json={"overlap_s": overlap_s})
        assert (reply.status_code, reply.json()["error"]["field"]) == (422, "overlap_s")
    assert len((await own.get("/api/agents/one/keys")).json()) == 1


async def test_a_key_is_revoked_once_and_its_own_last_one_too(
    gateway: Running, agent: Any, own: httpx.AsyncClient, http: httpx.AsyncClient
) -> None:
    key_id = id_of(agent["api_key"])
    first = await own.delete(f"/api/agents/one/keys/{key_id}")
    assert (first.status_code, first.json()["is_live"]) == (200, False)
    assert not await works(gateway, agent["api_key"])
    again = await http.delete(f"/api/agents/one/keys/{key_id}")
    assert (again.status_code, again.json()["revoked_at"]) == (200, first.json()["revoked_at"])


async def test_the_key_of_another_agent_is_not_found_under_this_one(
    own: httpx.AsyncClient, http: httpx.AsyncClient, register: Register, gateway: Running
) -> None:
    other = await register("other")
    for client in (own, http):
        reply = await client.delete(f"/api/agents/one/keys/{id_of(other['api_key'])}")
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")
    assert await works(gateway, other["api_key"])


async def test_keys_are_the_agents_own_affair_and_the_operators(
    http: httpx.AsyncClient, register: Register, own: httpx.AsyncClient
) -> None:
    await register("other")
    for method, path in (("GET", ""), ("POST", ""), ("POST", "/rotate"), ("DELETE", "/0011223344556677")):
        foreign = await own.request(method, f"/api/agents/other/keys{path}")
        assert (foreign.status_code, foreign.json()["error"]["code"]) == (403, "agent_mismatch")
        nobody = await http.request(method, f"/api/agents/nobody/keys{path}")
        assert (nobody.status_code, nobody.json()["error"]["code"]) == (404, "not_found")


@pytest.mark.parametrize("how", ["revoked", "rotated", "deleted"])
async def test_another_gateway_hears_at_once_that_a_key_works_no_more(
    gateway: Running,
    streams_url: str,
    database_url: str,
    agent: Any,
    own: httpx.AsyncClient,
    http: httpx.AsyncClient,
    how: str,
) -> None:
    async with held(settings_for(streams_url, database_url)) as other:
        await until_ready(other)
        async with asyncio.timeout(10):
            await other.services.notices.listening.wait()
        assert await works(other, agent["api_key"])
        match how:
            case "revoked":
                await own.delete(f"/api/agents/one/keys/{id_of(agent['api_key'])}")
            case "rotated":
                await own.post("/api/agents/one/keys/rotate", json={"overlap_s": 0})
            case "deleted":
                await http.delete("/api/agents/one")
        for _ in range(200):
            if not await works(other, agent["api_key"]):
                return
            await asyncio.sleep(0.01)
    raise AssertionError("the other gateway never heard")


async def test_without_word_another_gateway_asks_again_within_30_seconds(
    gateway: Running,
    streams_url: str,
    database_url: str,
    agent: Any,
    own: httpx.AsyncClient,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with held(settings_for(streams_url, database_url)) as other:
        await until_ready(other)
        monkeypatch.setattr(other.services.keyring, "forget", lambda _: None)
        assert await works(other, agent["api_key"])
        await own.delete(f"/api/agents/one/keys/{id_of(agent['api_key'])}")
        now_ms = other.services.now_ms()
        other.services.now_ms = lambda: now_ms + keyring.FRESH_MS
        assert not await works(other, agent["api_key"])


async def test_what_was_read_before_a_key_was_revoked_is_not_believed_after_it(
    gateway: Running, agent: Any, own: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_all = key_lookups.stored_keys.find_all
    key_id = id_of(agent["api_key"])

    async def slow(pool: Any, several: list[str]) -> Any:
        found = await find_all(pool, several)
        [wanted] = several
        await pool.execute("UPDATE agent_keys SET revoked_at = now() WHERE id = $1", wanted)
        gateway.services.keyring.on_changed(f'["{wanted}"]'.encode())
        return found

    gateway.services.keyring.forget(key_id)
    monkeypatch.setattr(key_lookups.stored_keys, "find_all", slow)
    assert await works(gateway, agent["api_key"])
    monkeypatch.undo()
    assert not await works(gateway, agent["api_key"])


async def test_uses_of_many_keys_are_noted_a_few_in_a_statement(
    gateway: Running, register: Register, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    note, statements, names = stored_keys.note_used, [], ["x", "y", "z"]

    async def noted(pool: Any, used_ms: Mapping[str, int]) -> None:
        statements.append(len(used_ms))
        await note(pool, used_ms)

    monkeypatch.setattr(key_use, "ROWS_MAX", 2)
    monkeypatch.setattr(stored_keys, "note_used", noted)
    for name in names:
        assert await works(gateway, (await register(name))["api_key"])
    await gateway.services.key_use.write_down()
    assert statements == [2, 1]
    for name in names:
        [key] = (await http.get(f"/api/agents/{name}/keys")).json()
        assert key["last_used_at"] is not None


async def test_the_last_use_is_noted_to_the_minute(
    gateway: Running, agent: Any, own: httpx.AsyncClient, http: httpx.AsyncClient
) -> None:
    async def used_at() -> str:
        await gateway.services.key_use.write_down()
        [key] = (await http.get("/api/agents/one/keys")).json()
        return str(key["last_used_at"])

    assert await used_at() == "None"
    now_ms = gateway.services.now_ms()
    gateway.services.now_ms = lambda: now_ms
    await own.get("/api/agents")
    first = await used_at()
    assert datetime.fromisoformat(first).timestamp() * 1000 == now_ms
    for later_ms, is_news in ((59_000, False), (61_000, True)):
        gateway.services.now_ms = lambda later_ms=later_ms: now_ms + later_ms
        await own.get("/api/agents")
        assert (await used_at() != first) is is_news
