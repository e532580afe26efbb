"""Presence over HTTP: heartbeats, what agents say about themselves, who is there."""

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx
import pytest
from gateway_rig import OPERATOR_KEY, Register, calling, held, settings_for, until_ready

from broker.gateway.exchange import Exchange
from broker.gateway.quick_beat import QuickBeat
from broker.gateway.serve import Running
from broker.store import agents as stored_agents
from broker.store import presence as stored_presence
from broker.store.pool import Pool
from broker.streams.connection import open_connection
from broker.streams.keys import REGISTRY, Keys
from broker.telemetry import metrics
from schema import limits
from schema.errors import StreamsUnavailable
from schema.ids import new_id, shard_of
from schema.presence import PresenceUpdate

API = "/api/v1/messaging"
FIELDS = (
    *("agent_id", "is_online", "last_heartbeat_at", "status_message", "accepts_work_orders"),
    *("max_concurrent_jobs", "active_jobs", "state"),
)

ORDER = """
INSERT INTO work_orders (
    id, requester_id, worker_id, status, is_open, title, description, requirements, created_at, updated_at,
    lease_token, lease_until
) VALUES ($1, $2, $3, $4, false, 't', 'd', '{}', now(), now(), 'lease', now())
"""


async def presence(http: httpx.AsyncClient, reference: str) -> Any:
    reply = await http.get(f"{API}/presence/{reference}")
    assert reply.status_code == 200, reply.text
    return reply.json()


async def heard_ago(gateway: Running, agent_id: str, ago_ms: int) -> None:
    """Move the last sign of life into the past."""
    services = gateway.services
    at_ms = await services.presence.now_ms() - ago_ms
    connection = await services.link.get()
    key = Keys(shard_of(agent_id, services.settings.shards)).presence
    await connection.send("ZADD", key, at_ms, agent_id)


async def test_an_agent_nobody_has_heard_of_is_gone(http: httpx.AsyncClient, register: Register) -> None:
    agent = await register("quiet", max_concurrent_jobs=7, status_message="new here")
    shown = await presence(http, "quiet")
    assert {field: shown[field] for field in FIELDS} == {
        "agent_id": agent["id"],
        "is_online": False,
        "last_heartbeat_at": None,
        "status_message": "new here",
        "accepts_work_orders": True,
        "max_concurrent_jobs": 7,
        "active_jobs": 0,
        "state": "gone",
    }


async def test_many_agents_are_heard_of_at_once_and_only_by_whoever_may_say_so(
    gateway: Running, http: httpx.AsyncClient, register: Register
) -> None:
    agents = [await register(f"one-{number}") for number in range(5)]
    ids = [agent["id"] for agent in agents]
    await heard_ago(gateway, ids[0], 90_000)
    said = await http.post(f"{API}/heartbeats", json={"agent_ids": [*ids[:4], ids[3].upper()]})
    assert (said.status_code, said.json()["agents"]) == (200, 4)
    for agent_id in ids[:4]:
        shown = await presence(http, agent_id)
        assert (shown["state"], shown["last_heartbeat_at"]) == ("online", said.json()["heartbeat_at"])
    assert (await presence(http, ids[4]))["state"] == "gone"
    # Those who were away show in lists at once: they are written through.
    online = (await http.get("/api/agents", params={"online": "true"})).json()
    assert {agent["id"] for agent in online} == set(ids[:4])
    async with calling(gateway, agents[4]["api_key"]) as own:
        assert (await own.post(f"{API}/heartbeats", json={"agent_ids": [ids[4]]})).status_code == 200
        for named in ([ids[0]], [ids[4], ids[0]]):
            refused = await own.post(f"{API}/heartbeats", json={"agent_ids": named})
            assert (refused.status_code, refused.json()["error"]["code"]) == (403, "agent_mismatch")


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Return what the short way answers. Named before `gateway`, which takes the way as it starts."""
    answers: list[bool] = []
    take = QuickBeat.take

    def noted(self: QuickBeat, exchange: Exchange) -> bool:
        answers.append(take(self, exchange))
        return answers[-1]

    monkeypatch.setattr(QuickBeat, "take", noted)
    return answers


async def test_an_agents_own_heartbeat_is_the_same_with_and_without_the_framework(
    taken: list[bool], gateway: Running, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent = await register("pulse")
    counted = metrics.HTTP_REQUESTS.child(operation="sendHeartbeat", status="2xx")
    async with calling(gateway, agent["api_key"]) as own:

        async def beat(query: str, **headers: str) -> Any:
            before = counted.value
            reply = await own.post(f"{API}/heartbeat{query}", headers=headers)
            assert counted.value == before + reply.is_success
            await heard_ago(gateway, agent["id"], 90_000)
            shown = reply.json()
            for field in ("heartbeat_at", "request_id"):
                shown.pop(field, None)
                shown.get("error", {}).pop(field, None)
            return reply.status_code, shown, sorted(reply.headers)

        await beat("?agent_id=pulse")
        assert await beat("") == await beat("?agent_id=pulse")
        # A key that nobody remembers, and whatever is wrong with one, makes no difference either.
        keyring, key_id = gateway.services.keyring, agent["api_key"].split("_")[1]
        keyring.forget(key_id)
        assert await beat("") == await beat("?agent_id=pulse")
        assert taken.pop() is True
        for stranger in (OPERATOR_KEY, "abk_wrong"):
            said = {"Authorization": f"Bearer {stranger}"}
            short = await beat("", **said)
            assert short == await beat("", **said, **{"Content-Encoding": "identity"})
            assert short[0] == (422 if stranger == OPERATOR_KEY else 401)
            assert taken[-2:] == [True, False]
            del taken[-2:]
        for change in ("scopes = '{messages:send}'", "revoked_at = now()"):
            await gateway.services.pool.execute(f"UPDATE agent_keys SET {change} WHERE id = $1", key_id)
            keyring.forget(key_id)
            short = await beat("")
            assert short == await beat("?agent_id=pulse")
            assert short[0] == (403 if "scopes" in change else 401)
            assert taken.pop() is True
        await gateway.services.pool.execute(
            "UPDATE agent_keys SET revoked_at = NULL, scopes = '{agents:heartbeat}' WHERE id = $1", key_id
        )
        keyring.forget(key_id)
        assert await beat("", **{"X-Agent-Id": "other"}) == await beat("?agent_id=other")
        monkeypatch.setattr(gateway.services.beats, "beat", away)
        assert await beat("") == await beat("?agent_id=pulse")
    assert taken == [True, False, True]


async def away(_: str) -> Any:
    raise StreamsUnavailable("away")


async def test_agents_that_come_back_together_share_a_few_statements_and_show_at_once(
    gateway: Running, http: httpx.AsyncClient, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    agents, statements = [await register(f"back-{number}") for number in range(40)], []
    save = stored_agents.save_heartbeats

    async def noted(pool: Pool, heard_ms: Mapping[str, int]) -> None:
        statements.append(len(heard_ms))
        await save(pool, heard_ms)

    monkeypatch.setattr(stored_agents, "save_heartbeats", noted)
    async with calling(gateway, None) as own:

        async def beat(agent: Any) -> int:
            key = {"Authorization": f"Bearer {agent['api_key']}"}
            return (await own.post(f"{API}/heartbeat", headers=key)).status_code

        assert set(await asyncio.gather(*map(beat, agents))) == {200}
    assert sum(statements) == len(agents)
    assert len(statements) <= len(agents) / 2, "a transaction each is dearer than all the rest"
    online = (await http.get("/api/agents", params={"online": "true", "limit": 100})).json()
    assert {agent["id"] for agent in online} == {agent["id"] for agent in agents}


@pytest.mark.parametrize("query", ["", "?agent_id=once"], ids=["short way", "framework"])
async def test_a_heartbeat_is_noted_once_and_not_again_as_a_call(
    gateway: Running, register: Register, query: str
) -> None:
    agent, services = await register("once"), gateway.services
    async with calling(gateway, agent["api_key"]) as own:
        assert (await own.post(f"{API}/heartbeat{query}")).status_code == 200
        await heard_ago(gateway, agent["id"], 1_000)
        moved = await services.presence.last([agent["id"]])
        await services.signs_of_life.write_down()
        assert await services.presence.last([agent["id"]]) == moved
        assert (await own.get("/api/agents/once")).status_code == 200
        await services.signs_of_life.write_down()
        assert (await services.presence.last([agent["id"]]))[agent["id"]] > moved[agent["id"]]


async def test_a_list_of_agents_that_are_there_has_bounds_and_holds_ids(http: httpx.AsyncClient) -> None:
    for named, field in (
        ([], "agent_ids"),
        ([new_id()] * 1_001, "agent_ids"),
        ([new_id(), "x"], "agent_ids[1]"),
    ):
        refused = await http.post(f"{API}/heartbeats", json={"agent_ids": named})
        assert (refused.status_code, refused.json()["error"]["field"]) == (422, field)


async def test_a_heartbeat_puts_an_agent_online_under_its_name_and_its_id(
    gateway: Running, http: httpx.AsyncClient, register: Register
) -> None:
    agent = await register("pulse")
    for reference in (agent["id"], agent["id"].upper(), "pulse"):
        beat = await http.post(f"{API}/heartbeat", params={"agent_id": reference})
        assert beat.status_code == 200, beat.text
        assert (beat.json()["agent_id"], beat.json()["is_online"]) == (agent["id"], True)
        shown = await presence(http, reference)
        assert (shown["state"], shown["is_online"]) == ("online", True)
        assert shown["last_heartbeat_at"] == beat.json()["heartbeat_at"]
    # Postgres has the first one already: lists of who is online are read there.
    row = await stored_agents.get(gateway.services.pool, agent["id"])
    assert row is not None
    assert row.heartbeat_ms > 0


async def test_an_agents_own_key_and_the_header_say_who_beats(
    gateway: Running, http: httpx.AsyncClient, register: Register
) -> None:
    agent = await register("own")
    async with calling(gateway, agent["api_key"]) as own:
        assert (await own.post(f"{API}/heartbeat")).json()["agent_id"] == agent["id"]
    claimed = await http.post(f"{API}/heartbeat", headers={"X-Agent-Id": "own"})
    assert claimed.json()["agent_id"] == agent["id"]


async def test_silence_makes_it_away_and_then_gone(
    gateway: Running, http: httpx.AsyncClient, register: Register
) -> None:
    agent = await register("fading")
    for ago_ms, state in [
        (0, "online"),
        (30_000, "online"),
        (60_000, "away"),
        (200_000, "away"),
        (300_000, "gone"),
    ]:
        await heard_ago(gateway, agent["id"], ago_ms)
        shown = await presence(http, "fading")
        assert (shown["state"], shown["is_online"]) == (state, state == "online"), ago_ms
        assert shown["last_heartbeat_at"] is not None


async def test_any_subset_changes_and_the_rest_stays(http: httpx.AsyncClient, register: Register) -> None:
    agent = await register("worker", max_concurrent_jobs=4, capabilities=["dig"])
    changes: list[tuple[dict[str, Any], tuple[Any, ...]]] = [
        ({"status_message": "digging"}, ("digging", True, 4)),
        ({"accepts_work_orders": False}, ("digging", False, 4)),
        ({"max_concurrent_jobs": 9, "accepts_work_orders": True}, ("digging", True, 9)),
        ({}, ("digging", True, 9)),
        ({"status_message": None}, (None, True, 9)),
    ]
    for body, wanted in changes:
        reply = await http.put(f"{API}/presence?agent_id=worker", json=body)
        assert reply.status_code == 200, reply.text
        shown = reply.json()
        assert (
            shown["status_message"],
            shown["accepts_work_orders"],
            shown["max_concurrent_jobs"],
        ) == wanted, body
        assert (shown["agent_id"], shown["state"]) == (agent["id"], "online")  # it counts as a heartbeat
        assert shown == await presence(http, "worker")
    agent_now = (await http.get("/api/agents/worker")).json()
    assert (agent_now["max_concurrent_jobs"], agent_now["capabilities"]) == (9, ["dig"])


async def test_a_change_is_announced_and_a_mere_heartbeat_is_not(
    http: httpx.AsyncClient, register: Register, streams_url: str
) -> None:
    agent = await register("worker")
    async with await open_connection(streams_url, name="test") as connection:
        await connection.send("DEL", REGISTRY)
        await http.put(f"{API}/presence?agent_id=worker", json={})
        assert await connection.send("XLEN", REGISTRY) == 0
        await http.put(f"{API}/presence?agent_id=worker", json={"accepts_work_orders": False})
        ((_, fields),) = await connection.send("XRANGE", REGISTRY, "-", "+")
    assert fields == [b"id", agent["id"].encode()]


async def test_racing_changes_of_different_fields_undo_nothing_of_each_other(
    gateway: Running, http: httpx.AsyncClient, register: Register
) -> None:
    agent = await register("worker")
    pool = gateway.services.pool
    await asyncio.gather(
        *(
            stored_presence.change(pool, agent["id"], update, now_ms=1)
            for update in (
                PresenceUpdate(status_message="a"),
                PresenceUpdate(accepts_work_orders=False),
                PresenceUpdate(max_concurrent_jobs=3),
            )
        )
    )
    shown = await presence(http, "worker")
    assert (shown["status_message"], shown["accepts_work_orders"], shown["max_concurrent_jobs"]) == (
        "a",
        False,
        3,
    )
    assert await stored_presence.change(pool, new_id(), PresenceUpdate(), now_ms=1) is False


BAD_UPDATES: list[tuple[dict[str, Any], set[str]]] = [
    ({"status_message": ""}, {"status_message"}),
    ({"status_message": "x" * 281}, {"status_message"}),
    ({"status_message": 3}, {"status_message"}),
    ({"accepts_work_orders": None}, {"accepts_work_orders"}),
    (
        {"accepts_work_orders": "yes", "max_concurrent_jobs": 0},
        {"accepts_work_orders", "max_concurrent_jobs"},
    ),
    ({"max_concurrent_jobs": 10_001}, {"max_concurrent_jobs"}),
    ({"max_concurrent_jobs": 1.5, "status_message": "\n"}, {"max_concurrent_jobs", "status_message"}),
]


async def test_every_fault_is_told_at_once_and_nothing_is_changed(
    http: httpx.AsyncClient, register: Register
) -> None:
    await register("worker", status_message="before")
    for body, fields in BAD_UPDATES:
        reply = await http.put(f"{API}/presence?agent_id=worker", json=body)
        assert reply.status_code == 422, body
        assert {fault["field"] for fault in reply.json()["error"]["details"]} == fields
    shown = await presence(http, "worker")
    assert (shown["status_message"], shown["state"]) == ("before", "gone")


async def test_who_acts_must_be_known_and_be_oneself(
    gateway: Running, http: httpx.AsyncClient, register: Register
) -> None:
    one, other = await register("one"), await register("other")
    for method, path in (("POST", "/heartbeat"), ("PUT", "/presence")):

        async def outcome(
            client: httpx.AsyncClient, method: str = method, path: str = path, **params: str
        ) -> tuple[int, str, str | None]:
            reply = await client.request(method, API + path, params=params, json={})
            error = reply.json()["error"]
            return reply.status_code, error["code"], error.get("field")

        assert await outcome(http) == (422, "invalid", "agent_id")
        assert await outcome(http, agent_id="nobody") == (422, "invalid", "agent_id")
        async with calling(gateway, one["api_key"]) as own:
            for claim in (other["id"], "other", "nobody"):
                assert await outcome(own, agent_id=claim) == (403, "agent_mismatch", None)
        async with calling(gateway, None) as stranger:
            assert (await outcome(stranger))[0] == 401


async def test_presence_of_nobody_is_not_found(http: httpx.AsyncClient) -> None:
    for reference in ("nobody", "0190a0b1-0000-7000-8000-000000000000", "x" * 200):
        reply = await http.get(f"{API}/presence/{reference}")
        assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_found")


async def test_without_redis_heartbeats_are_503_and_presence_is_what_postgres_knows(
    database_url: str,
) -> None:
    settings = settings_for("redis://127.0.0.1:1/0", database_url)
    async with held(settings) as gateway, calling(gateway, OPERATOR_KEY) as http:
        assert (await http.post("/api/agents", json={"name": "cut off"})).status_code == 201
        for reply in (
            await http.post(f"{API}/heartbeat?agent_id=cut off"),
            await http.put(f"{API}/presence?agent_id=cut off", json={"status_message": "here"}),
        ):
            assert (reply.status_code, reply.json()["error"]["code"]) == (503, "streams_unavailable")
            assert int(reply.headers["Retry-After"]) > 0
        agent = await stored_agents.get(gateway.services.pool, "cut off")
        assert agent is not None
        assert agent.status_message is None
        # As far behind as the record may be: for all that is known the agent was heard of just now.
        behind_ms = gateway.services.now_ms() - limits.HEARTBEAT_BEHIND_MS_MAX
        await stored_agents.save_heartbeats(gateway.services.pool, {agent.id: behind_ms})
        shown = await presence(http, "cut off")
        assert (shown["state"], shown["last_heartbeat_at"] is not None) == ("online", True)
        [listed] = (await http.get("/api/agents?online=true")).json()
        assert listed["is_online"] is True


async def test_without_postgres_heartbeats_of_ids_go_on(streams_url: str) -> None:
    settings = settings_for(streams_url, "postgresql://nobody@127.0.0.1:1/nothing")
    async with held(settings) as gateway, calling(gateway) as http:
        agent_id = new_id()
        beat = await http.post(f"{API}/heartbeat", params={"agent_id": agent_id})
        assert (beat.status_code, beat.json()["agent_id"]) == (200, agent_id)
        assert (await http.post(f"{API}/heartbeat?agent_id=name")).status_code == 503
        assert (await http.get(f"{API}/presence/{agent_id}")).status_code == 503


async def test_accepted_work_orders_are_active_jobs(
    gateway: Running, http: httpx.AsyncClient, register: Register
) -> None:
    worker, other = await register("worker"), await register("other")
    for agent, status in (
        (worker, "accepted"),
        (worker, "pending"),
        (worker, "accepted"),
        (other, "accepted"),
    ):
        await gateway.services.pool.execute(ORDER, new_id(), other["id"], agent["id"], status)
    assert (await presence(http, "worker"))["active_jobs"] == 2


async def test_two_gateways_show_the_same(
    gateway: Running, http: httpx.AsyncClient, register: Register, streams_url: str, database_url: str
) -> None:
    await register("roaming")
    await presence(http, "roaming")
    async with held(settings_for(streams_url, database_url)) as second:
        await until_ready(second)
        async with calling(second) as other:
            body = {"status_message": "seen from the other side"}
            changed = (await other.put(f"{API}/presence?agent_id=roaming", json=body)).json()
        assert await presence(http, "roaming") == changed
