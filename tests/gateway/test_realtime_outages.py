"""Live sessions while a store is away, and replies over them: nothing is lost, nothing comes twice."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest
from gateway_rig import Register, calling, held, settings_for, until_ready
from realtime_rig import listening, mailing, talking, until
from recording import Recorder, recording

from broker.gateway.serve import Running
from broker.servers.valkey import EmbeddedValkey
from schema.errors import BrokerError
from schema.ledger import EventKind

PATIENCE_S = 20


@pytest.fixture
async def shaken(own_redis: EmbeddedValkey, database_url: str) -> AsyncIterator[Running]:
    """A gateway on that Redis."""
    async with held(settings_for(own_redis.url, database_url)) as one:
        await until_ready(one)
        yield one


async def swept(gateway: Running) -> None:
    """Let the sweep find what words of arrival did not reach, as it does every few seconds."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            try:
                await gateway.services.realtime.sweep()
            except BrokerError:
                await asyncio.sleep(0.05)
            else:
                return


async def test_a_socket_outlives_a_restart_of_redis_and_loses_and_repeats_nothing(
    own_redis: EmbeddedValkey, shaken: Running
) -> None:
    async with calling(shaken) as http:
        agent = (await http.post("/api/agents", json={"name": "puller"})).json()
    with mailing(own_redis.url, shaken.services.settings.shards) as mail:
        before, unacknowledged = mail.put(agent["id"]), mail.put(agent["id"])
        async with talking(shaken, agent["api_key"]) as socket:
            assert [one["id"] for one in await socket.messages(2)] == [before.id, unacknowledged.id]
            assert (await socket.ack(before.id))["type"] == "acked"
            mail.raw.connection_pool.disconnect()
            own_redis.stop()
            refused = await socket.ack(unacknowledged.id, status="processed")
            assert (refused["type"], refused["error"]["code"]) == ("error", "streams_unavailable")
            own_redis.start()
            after = mail.put(agent["id"])
            await until_ready(shaken)
            await swept(shaken)
            assert [one["id"] for one in await socket.messages(1)] == [after.id]
            for one in (unacknowledged, after):
                assert (await socket.ack(one.id, status="processed"))["type"] == "acked"
            last = mail.put(agent["id"])
            await swept(shaken)
            assert (await socket.next())["message"]["id"] == last.id
        ends = [event.id for event in mail.events(agent["id"]) if event.kind is EventKind.SETTLED]
        assert ends == [before.id, unacknowledged.id, after.id]
        async with listening(shaken, agent["api_key"]) as events:
            assert [one["id"] for one in await events.messages(1)] == [last.id]
        assert mail.left(agent["id"]) == 1


async def test_a_word_of_arrival_is_heard_again_after_redis_was_away(
    own_redis: EmbeddedValkey, shaken: Running
) -> None:
    async with calling(shaken) as http:
        agent = (await http.post("/api/agents", json={"name": "puller"})).json()
    with mailing(own_redis.url, shaken.services.settings.shards) as mail:
        async with talking(shaken, agent["api_key"]) as socket:
            assert (await socket.next())["type"] == "hello"
            mail.raw.connection_pool.disconnect()
            own_redis.stop()
            own_redis.start()
            await until_ready(shaken)
            await until(lambda: bool(mail.raw.pubsub_numsub("ab:arrived")[0][1]))
            sent = mail.put(agent["id"])
            assert [one["id"] for one in await socket.messages(1)] == [sent.id]


async def test_a_session_opens_while_postgres_is_away_and_acknowledges(
    gateway: Running, register: Register, streams_url: str
) -> None:
    agent = await register("puller")
    with mailing(streams_url, gateway.services.settings.shards) as mail:
        async with talking(gateway, agent["api_key"]) as known:
            assert (await known.next())["type"] == "hello"
        sent = mail.put(agent["id"])
        await gateway.services.pool.aclose()
        gateway.services.agents.forget(agent["id"])
        async with talking(gateway, agent["api_key"]) as socket:
            assert [one["id"] for one in await socket.messages(1)] == [sent.id]
            assert (await socket.ack(sent.id, status="processed"))["type"] == "acked"
        await until(lambda: mail.left(agent["id"]) == 0)
        (end,) = mail.events(agent["id"])
        assert end.id == sent.id


async def test_a_reply_over_a_socket_is_what_its_sender_waits_for(
    gateway: Running, http: httpx.AsyncClient, register: Register, streams_url: str
) -> None:
    asking, answering = await register("asking"), await register("answering")
    shards = gateway.services.settings.shards
    with mailing(streams_url, shards) as mail:
        async with (
            recording(streams_url, gateway.services.pool, shards=shards) as recorder,
            talking(gateway, answering["api_key"]) as socket,
        ):
            body = {"to_agent_id": "answering", "from_agent_id": "asking", "content": {"q": 1}}
            query = {"wait": "reply", "timeout_ms": 15_000}
            waiting = asyncio.create_task(http.post("/api/messages", params=query, json=body))
            question = await _came(recorder)
            answer = await socket.ask(type="reply", message_id=question, content={"n": 42})
            assert answer["type"] == "accepted", answer
            message = (await asyncio.wait_for(waiting, PATIENCE_S)).json()
        assert message["id"] == question
        assert (message["reply"]["id"], message["reply"]["content"]) == (answer["message_id"], {"n": 42})
        assert (message["reply"]["to_agent_id"], message["reply"]["status"]) == (asking["id"], "delivered")
        assert mail.left(asking["id"]) == 0


async def _came(recorder: Recorder) -> str:
    await until(lambda: len(recorder.recorded) == 1)
    return next(iter(recorder.recorded))
