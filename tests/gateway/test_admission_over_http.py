"""What a gateway lets through, over real HTTP: full inboxes, memory, rates, loops, kill switches, causes."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
import pytest
from cluster import async_client_of
from gateway_rig import Register, calling, held, settings_for, until_ready
from recording import Recorder

from broker.client import AgentClient
from broker.client.request import TRIES
from broker.gateway import gatekeeper
from broker.gateway.serve import Running
from broker.streams.connection import Connection
from broker.streams.memory import memory_ratio
from schema.errors import InboxFull, StreamsUnavailable
from schema.ids import new_id
from schema.trip import Trip


async def until(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(10):
        while not await true():  # noqa: ASYNC110  # what another task hears of gives no signal
            await asyncio.sleep(0.02)


def code(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


@asynccontextmanager
async def gateway_with(
    streams_url: str, database_url: str, **settings: Any
) -> AsyncIterator[tuple[Running, httpx.AsyncClient]]:
    async with held(settings_for(streams_url, database_url, **settings)) as gateway:
        await until_ready(gateway)
        async with calling(gateway) as http:
            yield gateway, http


async def full(gateway: Running, agent_id: str, *, for_ms: int = 60_000) -> None:
    """Say that an inbox is full, as its router does again and again, and wait until the gateway has heard."""
    book, keeper = gateway.services.gatekeeper.book, gateway.services.gatekeeper

    async def heard() -> bool:
        await book.fill({agent_id: await gateway.services.presence.now_ms() + for_ms})
        return agent_id in keeper.barriers.full

    await until(heard)


# --- inboxes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wait", ["accepted", "recorded"])
async def test_a_full_inbox_is_429_with_retry_after_and_the_others_go_on(
    gateway: Running, http: httpx.AsyncClient, register: Register, recorder: Recorder, wait: str
) -> None:
    fat, own = await register("fat"), await register("own")
    await register("thin")
    await full(gateway, fat["id"])
    for key in (own["api_key"], None):
        async with calling(gateway, key) if key else calling(gateway) as client:
            reply = await client.post(f"/api/messages?wait={wait}", json={"to_agent_id": "fat"})
            assert code(reply) == (429, "inbox_full")
            assert int(reply.headers["Retry-After"]) == reply.json()["error"]["retry_after_s"] > 0
            reply = await client.post(f"/api/messages?wait={wait}", json={"to_agent_id": "thin"})
            assert reply.is_success
    await gateway.services.gatekeeper.book.fill({}, [fat["id"]])

    async def open_again() -> bool:
        return (await http.post("/api/messages?wait=accepted", json={"to_agent_id": "fat"})).is_success

    await until(open_again)


async def test_of_a_batch_only_what_goes_to_a_full_inbox_is_refused(
    gateway: Running, http: httpx.AsyncClient, register: Register
) -> None:
    fat = await register("fat")
    await register("thin")
    await full(gateway, fat["id"])
    reply = await http.post("/api/messages/batch", json=[{"to_agent_id": "fat"}, {"to_agent_id": "thin"}])
    refused, taken = reply.json()["results"]
    assert (refused["error"]["code"], refused["error"]["retry_after_s"]) == ("inbox_full", 2)
    assert taken["id"]


async def test_a_ping_of_a_full_inbox_is_refused_too(gateway: Running, register: Register) -> None:
    fat, own = await register("fat"), await register("own")
    await full(gateway, fat["id"])
    async with calling(gateway, own["api_key"]) as client:
        reply = await client.post("/api/v1/messaging/ping", json={"to_agent_id": "fat"})
        assert code(reply) == (429, "inbox_full")


async def test_an_inbox_whose_router_died_opens_by_itself(
    gateway: Running, http: httpx.AsyncClient, register: Register
) -> None:
    fat, other = await register("fat"), await register("other")
    await full(gateway, fat["id"], for_ms=500)
    await asyncio.sleep(0.6)
    await full(gateway, other["id"])  # whatever else changes brings it up
    assert (await http.post("/api/messages?wait=accepted", json={"to_agent_id": "fat"})).is_success


async def test_a_redis_that_goes_away_while_it_is_asked_what_is_full_ends_no_gateway(
    gateway: Running, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    fat = await register("fat")
    failed = asyncio.Event()

    async def away() -> int:
        failed.set()
        monkeypatch.undo()
        raise StreamsUnavailable("away")

    monkeypatch.setattr(gateway.services.gatekeeper, "_server_ms", away)
    await full(gateway, fat["id"])
    assert failed.is_set()
    assert not gateway.stop.is_set()


async def test_the_sdk_tries_again_after_what_it_is_told_to_wait_and_then_gives_up(
    gateway: Running, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    fat, own = await register("fat"), await register("own")
    await full(gateway, fat["id"])
    monkeypatch.setattr("broker.gateway.gatekeeper.FULL_RETRY_S", 1)
    loop = asyncio.get_running_loop()
    async with AgentClient(gateway.url, own["api_key"]) as client:
        began_s = loop.time()
        with pytest.raises(InboxFull) as caught:
            await client.send({}, to="fat", wait="accepted")
    assert caught.value.retry_after_s == 1
    assert loop.time() - began_s >= TRIES - 1


async def test_what_an_inbox_may_hold_is_the_operators_to_change(
    gateway: Running, http: httpx.AsyncClient, register: Register
) -> None:
    own = await register("own")
    change = {"inbox_messages_max": 5, "inbox_bytes_max": 1_000}
    async with calling(gateway, own["api_key"]) as client:
        assert code(await client.patch("/api/agents/own", json=change)) == (403, "forbidden")
    shown = (await http.patch("/api/agents/own", json=change)).json()
    assert (shown["inbox_messages_max"], shown["inbox_bytes_max"]) == (5, 1_000)
    reply = await http.patch("/api/agents/own", json={"inbox_messages_max": None})
    assert reply.json()["inbox_messages_max"] is None
    assert (await http.patch("/api/agents/own", json={"inbox_bytes_max": -1})).status_code == 422


# --- memory -----------------------------------------------------------------------------------------------


async def test_at_70_percent_publishing_is_503_and_everything_else_goes_on(
    gateway: Running,
    http: httpx.AsyncClient,
    register: Register,
    recorder: Recorder,
    streams_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[float] = []

    async def look(connection: Connection) -> float:
        looks.append(await memory_ratio(connection))
        return looks[-1]

    monkeypatch.setattr(gatekeeper, "MEMORY_S", 0.05)
    monkeypatch.setattr(gatekeeper, "memory_ratio", look)
    to = await register("to")
    sent = (await http.post("/api/messages", json={"to_agent_id": "to"})).json()

    async def is_shed() -> bool:
        return (await http.post("/api/messages?wait=accepted", json={"to_agent_id": "to"})).status_code == 503

    async with async_client_of(streams_url) as redis:
        before = int((await redis.config_get("maxmemory"))["maxmemory"])
        try:
            used = (await redis.info("memory"))["used_memory"]
            await redis.config_set("maxmemory", int(used / 0.75))
            await until(is_shed)
            async with calling(gateway, to["api_key"]) as own:
                for client in (http, own):
                    for wait in ("accepted", "recorded"):
                        reply = await client.post(f"/api/messages?wait={wait}", json={"to_agent_id": "to"})
                        assert code(reply) == (503, "overloaded")
                        assert int(reply.headers["Retry-After"]) > 0
                reply = await http.post("/api/messages/batch", json=[{"to_agent_id": "to"}])
                assert code(reply) == (503, "overloaded")
                assert (await own.get("/api/v1/messaging/inbox")).is_success
                reply = await own.put(f"/api/messages/{sent['id']}/status", json={"status": "processed"})
                assert reply.json()["status"] == "processed"
                assert (await http.get(f"/api/messages/{sent['id']}")).is_success
                assert (await own.post(f"/api/agents/{to['id']}/heartbeat")).is_success
            # Less than 70 % is not enough: it must be less than 65.
            used = (await redis.info("memory"))["used_memory"]
            await redis.config_set("maxmemory", int(used / 0.68))
            before_it = len(looks)

            async def has_looked() -> bool:
                return len(looks) > before_it + 1  # the next but one began afterwards

            await until(has_looked)
            assert await is_shed()
            await redis.config_set("maxmemory", int(used / 0.3))

            async def is_open() -> bool:
                return not await is_shed()

            await until(is_open)
        finally:
            await redis.config_set("maxmemory", before)


# --- rates ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("wait", ["accepted", "recorded"])
async def test_a_key_that_publishes_too_fast_is_429_and_an_operator_never(
    streams_url: str, database_url: str, wait: str
) -> None:
    # So slow that no stall of the machine lets all of them pass.
    async with gateway_with(streams_url, database_url, key_rate_per_s=1) as (gateway, http):
        own = (await http.post("/api/agents", json={"name": "own"})).json()
        await http.post("/api/agents", json={"name": "to"})
        async with calling(gateway, own["api_key"]) as client:
            path, body = f"/api/messages?wait={wait}&timeout_ms=0", {"to_agent_id": "to"}
            replies = [await client.post(path, json=body) for _ in range(25)]
        refused = [reply for reply in replies if not reply.is_success]
        assert len(replies) - len(refused) >= 2  # what a bucket holds
        assert {code(reply) for reply in refused} == {(429, "rate_limited")}
        assert all(int(reply.headers["Retry-After"]) >= 1 for reply in refused)
        for _ in range(25):
            assert (await http.post(path, json=body)).is_success


async def test_a_batch_counts_its_messages(streams_url: str, database_url: str) -> None:
    async with gateway_with(streams_url, database_url, key_rate_per_s=5) as (gateway, http):
        own = (await http.post("/api/agents", json={"name": "own"})).json()
        async with calling(gateway, own["api_key"]) as client:
            batch = [{"to_agent_id": "own", "content": {"n": n}} for n in range(100)]
            results = (await client.post("/api/messages/batch", json=batch)).json()["results"]
        assert 10 <= sum("id" in result for result in results) < 20
        assert {one["error"]["code"] for one in results if "error" in one} == {"rate_limited"}
        assert all(one["error"]["retry_after_s"] >= 1 for one in results if "error" in one)


async def test_a_pair_has_a_rate_of_its_own(streams_url: str, database_url: str) -> None:
    async with gateway_with(streams_url, database_url, pair_rate_per_s=5) as (gateway, http):
        own = (await http.post("/api/agents", json={"name": "own"})).json()
        for name in ("to", "third"):
            await http.post("/api/agents", json={"name": name})
        async with calling(gateway, own["api_key"]) as client:
            batch = [{"to_agent_id": "to"} for n in range(50)] + [{"to_agent_id": "third"}] * 5
            results = (await client.post("/api/messages/batch", json=batch)).json()["results"]
        assert 10 <= sum("id" in result for result in results[:50]) < 20
        assert all("id" in result for result in results[50:])


async def test_what_a_pair_may_not_send_is_not_counted_against_the_key(
    streams_url: str, database_url: str
) -> None:
    rates = {"key_rate_per_s": 20, "pair_rate_per_s": 1}
    async with gateway_with(streams_url, database_url, **rates) as (gateway, http):
        own = (await http.post("/api/agents", json={"name": "own"})).json()
        for name in ("to", "third"):
            await http.post("/api/agents", json={"name": name})
        async with calling(gateway, own["api_key"]) as client:
            batch = [{"to_agent_id": "to"}] * 500 + [{"to_agent_id": "third"}]
            results = (await client.post("/api/messages/batch", json=batch)).json()["results"]
        assert "id" not in results[499]
        assert "id" in results[500]


# --- loops ------------------------------------------------------------------------------------------------


async def test_a_pair_that_tripped_is_409_until_an_operator_resets_it(
    gateway: Running, http: httpx.AsyncClient, register: Register
) -> None:
    own, to = await register("own"), await register("to")
    keeper = gateway.services.gatekeeper
    trip = Trip(
        id=new_id(), sign="repeat", from_agent_id=own["id"], to_agent_id=to["id"], both=False, at_ms=1_000
    )
    assert await keeper.book.trip(trip)

    async def heard() -> bool:
        return bool(keeper.barriers.tripped)

    await until(heard)
    async with calling(gateway, own["api_key"]) as client, calling(gateway, to["api_key"]) as back:
        for wait in ("accepted", "recorded"):
            reply = await client.post(f"/api/messages?wait={wait}", json={"to_agent_id": "to"})
            assert code(reply) == (409, "loop_detected")
        assert (await back.post("/api/messages?wait=accepted", json={"to_agent_id": "own"})).is_success
        [shown] = (await http.get("/api/trips")).json()
        assert shown == {
            "id": trip.id,
            "sign": "repeat",
            "from_agent_id": own["id"],
            "to_agent_id": to["id"],
            "both_ways": False,
            "tripped_at": "1970-01-01T00:00:01Z",
        }
        assert (await http.delete(f"/api/trips/{trip.id}")).json() == {"success": True, "trip_id": trip.id}
        assert code(await http.delete(f"/api/trips/{trip.id}")) == (404, "not_found")

        async def passes() -> bool:
            return (await client.post("/api/messages?wait=accepted", json={"to_agent_id": "to"})).is_success

        await until(passes)
        assert (await http.get("/api/trips")).json() == []


# --- kill switches ----------------------------------------------------------------------------------------


async def test_an_agent_that_is_switched_off_neither_sends_nor_gets_nor_asks(
    gateway: Running, http: httpx.AsyncClient, register: Register
) -> None:
    bad, good = await register("bad"), await register("good")
    switch = (await http.post("/api/kill-switches", json={"agent_id": "bad", "reason": "loops"})).json()
    assert (switch["kind"], switch["agent_id"], switch["reason"]) == ("agent", bad["id"], "loops")
    async with calling(gateway, bad["api_key"]) as killed, calling(gateway, good["api_key"]) as client:

        async def is_stopped() -> bool:
            return (await killed.get("/api/v1/messaging/inbox")).status_code == 403

        await until(is_stopped)
        for wait in ("accepted", "recorded"):
            reply = await killed.post(f"/api/messages?wait={wait}", json={"to_agent_id": "good"})
            assert code(reply) == (403, "killed")
            reply = await client.post(f"/api/messages?wait={wait}", json={"to_agent_id": "bad"})
            assert code(reply) == (403, "killed")
        assert code(await http.post("/api/kill-switches", json={"agent_id": bad["id"]})) == (409, "conflict")
        assert [one["id"] for one in (await http.get("/api/kill-switches")).json()] == [switch["id"]]
        assert (await http.delete(f"/api/kill-switches/{switch['id']}")).is_success
        assert code(await http.delete(f"/api/kill-switches/{switch['id']}")) == (404, "not_found")

        async def passes() -> bool:
            return (await killed.get("/api/v1/messaging/inbox")).is_success

        await until(passes)
        assert (await http.get("/api/kill-switches")).json() == []


async def test_a_pair_is_switched_off_either_way_and_only_the_pair(
    gateway: Running, http: httpx.AsyncClient, register: Register
) -> None:
    keys = {name: (await register(name))["api_key"] for name in ("one", "two", "three")}
    made = await http.post("/api/kill-switches", json={"agent_id": "two", "peer_id": "one"})
    assert made.json()["kind"] == "pair"

    async def sent(sender: str, to: str) -> int:
        async with calling(gateway, keys[sender]) as client:
            return (await client.post("/api/messages?wait=accepted", json={"to_agent_id": to})).status_code

    async def is_stopped() -> bool:
        return await sent("one", "two") == 403

    await until(is_stopped)
    assert (await sent("two", "one"), await sent("one", "three"), await sent("three", "two")) == (
        403,
        202,
        202,
    )


async def test_what_goes_back_to_a_root_that_is_switched_off_is_refused(
    gateway: Running, http: httpx.AsyncClient, register: Register, recorder: Recorder
) -> None:
    own, to = await register("own"), await register("to")
    async with calling(gateway, own["api_key"]) as client, calling(gateway, to["api_key"]) as back:
        root = (await client.post("/api/messages", json={"to_agent_id": "to"})).json()["id"]
        await http.post("/api/kill-switches", json={"root_id": root})
        answer = {"to_agent_id": "own", "reply_to": root}

        async def is_stopped() -> bool:
            return (await back.post("/api/messages?wait=accepted", json=answer)).status_code == 403

        await until(is_stopped)
        caused = {"to_agent_id": "own", "caused_by": root}
        assert code(await back.post("/api/messages", json=caused)) == (403, "killed")
        assert (await back.post("/api/messages?wait=accepted", json={"to_agent_id": "own"})).is_success


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"peer_id": "own"},
        {"agent_id": "own", "root_id": new_id()},
        {"root_id": "x"},
        {"agent_id": "own", "reason": "x" * 501},
        {"agent_id": "own", "reason": "a\nb"},
    ],
    ids=["nothing", "half a pair", "two things", "no id", "long reason", "control characters"],
)
async def test_a_switch_says_one_thing(http: httpx.AsyncClient, register: Register, body: Any) -> None:
    await register("own")
    assert (await http.post("/api/kill-switches", json=body)).status_code == 422


async def test_nobody_is_switched_off_who_is_not_there(http: httpx.AsyncClient) -> None:
    assert code(await http.post("/api/kill-switches", json={"agent_id": "nobody"})) == (404, "not_found")


# --- causes -----------------------------------------------------------------------------------------------


async def test_hop_and_root_come_from_the_record_and_not_from_the_sender(
    gateway: Running, register: Register, recorder: Recorder
) -> None:
    one, two = await register("one"), await register("two")
    async with calling(gateway, one["api_key"]) as first, calling(gateway, two["api_key"]) as second:
        sent = (await first.post("/api/messages", json={"to_agent_id": "two", "hop": 7})).json()
        assert (sent["hop"], sent["root_id"]) == (0, sent["id"])
        for turn in range(1, 6):
            client, to = (second, "one") if turn % 2 else (first, "two")
            how = "reply_to" if turn % 3 else "caused_by"
            body = {"to_agent_id": to, how: sent["id"], "hop": 0, "root_id": new_id()}
            before, sent = sent, (await client.post("/api/messages", json=body)).json()
            assert (sent["hop"], sent["root_id"]) == (turn, before["root_id"])


async def test_a_quick_chain_of_answers_grows_though_nothing_is_recorded_yet(
    gateway: Running, register: Register
) -> None:
    """No recorder runs here: what this gateway took itself it still knows."""
    one = await register("one")
    async with calling(gateway, one["api_key"]) as client:
        sent = (await client.post("/api/messages?wait=accepted", json={"to_agent_id": "one"})).json()
        root = sent["id"]
        for hop in range(1, 5):
            body = {"to_agent_id": "one", "reply_to": sent["id"]}
            sent = (await client.post("/api/messages?wait=accepted", json=body)).json()
            assert (sent["hop"], sent["root_id"]) == (hop, root)


async def test_a_stranger_uses_up_nothing_of_a_root_by_naming_it(
    gateway: Running, register: Register, recorder: Recorder
) -> None:
    one, stranger = await register("one"), await register("stranger")
    await register("two")
    async with calling(gateway, one["api_key"]) as client, calling(gateway, stranger["api_key"]) as other:
        root = (await client.post("/api/messages", json={"to_agent_id": "two"})).json()["id"]
        taken = (await other.post("/api/messages", json={"to_agent_id": "two", "reply_to": root})).json()
        assert taken["root_id"] == taken["id"] != root
        assert taken["hop"] == 1


async def test_a_cause_is_an_id(http: httpx.AsyncClient, register: Register) -> None:
    await register("one")
    reply = await http.post("/api/messages", json={"to_agent_id": "one", "caused_by": "x"})
    assert reply.status_code == 422
    assert json.loads(reply.content)["error"]["field"] == "caused_by"


# --- connections ------------------------------------------------------------------------------------------


async def test_one_connection_too_many_is_503_and_the_others_go_on(
    streams_url: str, database_url: str
) -> None:
    async with gateway_with(streams_url, database_url, http_connections_max=5) as (gateway, http):
        port = gateway.port
        held_open = [await asyncio.open_connection("127.0.0.1", port) for _ in range(4)]
        assert (await http.get("/healthz")).is_success
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        head, _, body = (await asyncio.wait_for(reader.read(), 5)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503 Service Unavailable\r\n")
        assert b"retry-after: 2" in head
        assert json.loads(body)["error"]["code"] == "too_many_connections"
        writer.close()
        assert (await http.get("/healthz")).is_success
        for _, one in held_open:
            one.close()

        async def is_taken() -> bool:
            async with calling(gateway) as another:
                try:
                    return (await another.get("/healthz")).is_success
                except httpx.HTTPError:
                    return False

        await until(is_taken)
