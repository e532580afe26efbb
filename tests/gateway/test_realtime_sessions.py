"""Which live session an agent has, what ends one, and what its connection says of the agent's presence."""

import asyncio
from collections.abc import AsyncIterator, Iterator

import httpx
import pytest
from gateway_rig import OPERATOR_KEY, Register, held, settings_for, until_ready
from realtime_rig import Mailman, listening, mailing, talking, until

from broker.gateway.realtime import hub
from broker.gateway.serve import Running
from broker.streams.sessions import LEASE_MS
from schema.codec import encode


@pytest.fixture
def mail(gateway: Running, streams_url: str) -> Iterator[Mailman]:
    with mailing(streams_url, gateway.services.settings.shards) as mailman:
        yield mailman


@pytest.fixture
async def second(gateway: Running, streams_url: str, database_url: str) -> AsyncIterator[Running]:
    """Another gateway of the same deployment."""
    async with held(settings_for(streams_url, database_url)) as one:
        await until_ready(one)
        yield one


async def test_a_newer_session_takes_over_at_the_same_gateway(gateway: Running, register: Register) -> None:
    agent = await register("puller")
    async with listening(gateway, agent["api_key"]) as oldest, talking(gateway, agent["api_key"]) as older:
        assert (await oldest.next())[0] == "hello"
        assert (await oldest.next())[::2] == ("taken_over", {"reason": "taken_over"})
        with pytest.raises(StopAsyncIteration):
            await oldest.next()
        async with talking(gateway, agent["api_key"]) as newest:
            assert (await older.until("taken_over"))["reason"] == "taken_over"
            assert await older.closed() == 4409
            assert (await newest.next())["type"] == "hello"
            assert (await newest.ask(type="heartbeat"))["type"] == "heartbeat"
            assert len(gateway.services.realtime) == 1


async def test_a_newer_session_takes_over_from_another_gateway_and_gets_the_messages(
    gateway: Running, second: Running, register: Register, mail: Mailman
) -> None:
    agent = await register("puller")
    async with talking(gateway, agent["api_key"]) as older:
        await older.next()
        async with talking(second, agent["api_key"]) as newer:
            assert await older.closed() == 4409
            sent = mail.put(agent["id"])
            assert [one["id"] for one in await newer.messages(1)] == [sent.id]
            assert (await newer.ack(sent.id))["type"] == "acked"
            async with talking(gateway, agent["api_key"]) as back:
                assert await newer.closed() == 4409
                assert (await back.next())["type"] == "hello"
                await second.services.realtime.renew_all()
                await gateway.services.realtime.renew_all()
                assert (await back.ask(type="heartbeat"))["type"] == "heartbeat"


async def test_a_takeover_nobody_heard_of_is_found_when_the_lease_is_renewed(
    gateway: Running, register: Register, mail: Mailman
) -> None:
    agent = await register("puller")
    lease = mail.keys(agent["id"]).session(agent["id"])
    async with talking(gateway, agent["api_key"]) as socket:
        await socket.next()
        mail.raw.delete(lease)
        await gateway.services.realtime.renew_all()
        assert mail.raw.pttl(lease) > 0
        mail.raw.pexpire(lease, LEASE_MS // 2 - 1)
        await gateway.services.realtime.renew_all()
        assert mail.raw.pttl(lease) > LEASE_MS - 60_000
        mail.raw.set(lease, "somebody else's", px=60_000)
        await gateway.services.realtime.renew_all()
        assert await socket.closed() == 4409
    assert mail.raw.get(lease) == b"somebody else's"


async def test_presence_follows_the_connection(gateway: Running, register: Register, mail: Mailman) -> None:
    agent = await register("puller")
    presence, lease = mail.keys(agent["id"]).presence, mail.keys(agent["id"]).session(agent["id"])
    async with talking(gateway, OPERATOR_KEY, agent_id=agent["id"]) as socket:
        await socket.next()
        assert mail.raw.zscore(presence, agent["id"]) is not None
        mail.raw.zadd(presence, {agent["id"]: 1})
        await gateway.services.realtime.renew_all()
        assert (mail.raw.zscore(presence, agent["id"]) or 0) > 1
    await until(lambda: not mail.raw.exists(lease))
    mail.raw.zadd(presence, {agent["id"]: 1})
    await gateway.services.realtime.renew_all()
    assert mail.raw.zscore(presence, agent["id"]) == 1


async def test_a_revoked_key_ends_its_session(
    gateway: Running, register: Register, mail: Mailman, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent, other = await register("puller"), await register("other")
    revoke = "UPDATE agent_keys SET revoked_at = now() WHERE agent_id = $1 RETURNING id"
    async with talking(gateway, agent["api_key"]) as socket, talking(gateway, other["api_key"]) as stays:
        await socket.next()
        await stays.next()
        [row] = await gateway.services.pool.fetch(revoke, agent["id"])
        mail.raw.publish("ab:revoked", encode([str(row["id"])]))
        assert (await socket.until("closing"))["reason"] == "revoked"
        assert await socket.closed() == 4401
        await gateway.services.pool.fetch(revoke, other["id"])
        # No word of that one; the key is remembered, and five seconds are not waited for.
        monkeypatch.setattr(hub, "LOOK_FRESH_MS", 0)
        await gateway.services.realtime.check_keys()
        assert await stays.closed() == 4401


async def test_an_agent_that_is_given_an_endpoint_is_pushed_to_instead(
    gateway: Running, http: httpx.AsyncClient, register: Register
) -> None:
    agent = await register("puller")
    async with talking(gateway, agent["api_key"]) as socket:
        await socket.next()
        changed = await http.patch(f"/api/agents/{agent['id']}", json={"endpoint": "http://127.0.0.1:9/hook"})
        assert changed.status_code == 200, changed.text
        assert (await socket.until("closing"))["reason"] == "has_endpoint"
        assert await socket.closed() == 4410


async def test_a_gateway_that_stops_sends_its_sessions_away_at_once(
    gateway: Running, second: Running, register: Register, mail: Mailman
) -> None:
    one, other = await register("one"), await register("other")
    async with listening(second, one["api_key"]) as events, talking(second, other["api_key"]) as socket:
        await events.next()
        await socket.next()
        second.stop.set()
        assert (await events.next())[::2] == ("closing", {"reason": "draining"})
        with pytest.raises(StopAsyncIteration):
            await events.next()
        assert (await socket.until("closing"))["reason"] == "draining"
        assert await socket.closed() == 1012
    async with talking(gateway, other["api_key"]) as socket:
        sent = mail.put(other["id"])
        assert [one["id"] for one in await socket.messages(1)] == [sent.id]


async def test_a_client_that_leaves_is_noticed_and_its_lease_given_back(
    gateway: Running, register: Register, mail: Mailman
) -> None:
    agent = await register("puller")
    lease = mail.keys(agent["id"]).session(agent["id"])
    async with listening(gateway, agent["api_key"]) as events:
        await events.next()
        assert mail.raw.exists(lease)
    await until(lambda: len(gateway.services.realtime) == 0 and not mail.raw.exists(lease))
    async with asyncio.timeout(10), talking(gateway, agent["api_key"]) as socket:
        await socket.next()
        socket.connection.transport.abort()
    await until(lambda: len(gateway.services.realtime) == 0 and not mail.raw.exists(lease))
