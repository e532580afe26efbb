"""What its agent or its sender has ended is shown, pushed and ended no more, whatever happens:
Redis is away, the record behind, the message in no mailbox yet."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest
from gateway_rig import calling, held, settings_for, until_ready
from realtime_rig import listening, talking
from receiver import Receiver
from worker_rig import World, message, until

from broker.core.fold import fold
from broker.gateway.serve import Running
from broker.servers.valkey import EmbeddedValkey
from broker.store import partitions, record
from schema.agent import Agent
from schema.ids import shard_of
from schema.message import LANES, Envelope
from schema.times import from_ms
from workers.delivery.delivery import Delivery

SHARDS = 2


class Scene:
    """A gateway, a worker, and an agent that both know; the record is written when the test says so."""

    def __init__(self, world: World, gateway: Running, http: httpx.AsyncClient) -> None:
        self.world, self.gateway, self.http = world, gateway, http

    async def register(self, name: str, receiver: Receiver | None = None, **more: Any) -> Agent:
        endpoint = None if receiver is None else receiver.url()
        reply = await self.http.post("/api/agents", json={"name": name, "endpoint": endpoint, **more})
        body = reply.json()
        agent = Agent(
            id=body["id"],
            name=name,
            endpoint=endpoint,
            signing_secret=body["signing_secret"],
            heartbeat_ms=self.gateway.services.now_ms(),
            **more,
        )
        self.world.put(agent)
        return agent

    async def send(self, envelope: Envelope) -> str:
        """Publish a message; return its id once it is routed and recorded."""
        await self.world.send(envelope)
        await until(lambda: any(event.id == envelope.id for event in self.world.events()))
        await self.record()
        return envelope.id

    async def record(self) -> None:
        """Write down what is in the ledgers, as the recorder does; again is harmless."""
        await record.write(self.gateway.services.pool, fold(self.world.events()))

    async def set_status(self, message_id: str, status: str) -> httpx.Response:
        return await self.http.put(f"/api/messages/{message_id}/status", json={"status": status})

    async def mark_read(self, message_id: str, agent: Agent) -> httpx.Response:
        path = f"/api/v1/messaging/mark-read/{message_id}"
        return await self.http.post(path, params={"agent_id": agent.id})

    async def status(self, message_id: str) -> str:
        return str((await self.http.get(f"/api/messages/{message_id}")).json()["status"])

    def deliveries(self) -> list[Delivery]:
        shards = [shard for site in self.world._sites for shard in site.shards]
        return [shard.delivery for shard in shards if shard.delivery is not None]

    def waiting(self, agent: Agent) -> int:
        keys = self.world.keys[shard_of(agent.id, SHARDS)]
        return sum(self.world.raw.xlen(keys.mailbox(agent.id, lane)) for lane in LANES)


@asynccontextmanager
async def a_scene(redis_url: str, database_url: str) -> AsyncIterator[Scene]:
    async with held(settings_for(redis_url, database_url, shards=SHARDS)) as gateway:
        await until_ready(gateway)
        await partitions.ensure_day(gateway.services.pool, from_ms(gateway.services.now_ms()).date())
        async with World(redis_url, shards=SHARDS) as world, calling(gateway) as http:
            yield Scene(world, gateway, http)


@pytest.fixture
async def scene(streams_url: str, database_url: str) -> AsyncIterator[Scene]:
    async with a_scene(streams_url, database_url) as scene:
        await scene.world.site()
        yield scene


# --- Redis is away ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["processed", "failed", "read"])
async def test_an_acknowledgement_is_not_confirmed_before_the_copy_is_gone(
    own_redis: EmbeddedValkey, database_url: str, way: str
) -> None:
    async with a_scene(own_redis.url, database_url) as scene:
        site = await scene.world.site()
        puller = await scene.register("puller")
        sent = await scene.send(message(puller))
        await site.kill()
        scene.world.raw.connection_pool.disconnect()
        own_redis.stop()

        async def acknowledge() -> httpx.Response:
            if way == "read":
                return await scene.mark_read(sent, puller)
            return await scene.set_status(sent, way)

        assert (await acknowledge()).status_code == 503
        own_redis.start()
        await until_ready(scene.gateway)
        assert scene.waiting(puller) == 1
        assert (await acknowledge()).status_code == 200
        assert scene.waiting(puller) == 0
        assert await scene.status(sent) == ("delivered" if way == "read" else way)


async def test_a_socket_acknowledges_what_was_acknowledged_while_redis_was_away(
    own_redis: EmbeddedValkey, database_url: str
) -> None:
    async with a_scene(own_redis.url, database_url) as scene:
        site = await scene.world.site()
        puller = await scene.register("puller")
        sent = await scene.send(message(puller))
        await site.kill()
        scene.world.raw.connection_pool.disconnect()
        own_redis.stop()
        assert (await scene.mark_read(sent, puller)).status_code == 503
        own_redis.start()
        await until_ready(scene.gateway)
        last = f"0,{int(datetime.now(UTC).timestamp() * 1000)}-0,0"
        async with talking(scene.gateway, agent_id=puller.id, last_event_id=last) as socket:
            assert (await socket.ack(sent))["type"] == "acked"
        assert scene.waiting(puller) == 0


# --- where no mailbox knows of it ------------------------------------------------------------------------


async def test_a_scheduled_message_that_was_cancelled_does_not_come(scene: Scene) -> None:
    receiver = await scene.world.receiver()
    pushed = await scene.register("pushed", receiver)
    due = datetime.now(UTC) + timedelta(hours=1)
    named = await scene.send(message(pushed, deliver_at=due, priority=9))
    chosen = await scene.send(message(requirements=["rare"], deliver_at=due))
    assert {name.split(":")[2] for name in scene.world.left()} >= {"later"}
    for message_id in (named, chosen):
        assert (await scene.set_status(message_id, "cancelled")).status_code == 200
    assert "later" not in {name.split(":")[2] for name in scene.world.left()}
    assert not any(scene.world.raw.hlen(keys.later_messages) for keys in scene.world.keys)


async def test_a_parked_message_that_was_cancelled_reaches_nobody(scene: Scene) -> None:
    receiver = await scene.world.receiver()
    cancelled = await scene.send(
        message(requirements=["rare"], expires_at=datetime.now(UTC) + timedelta(hours=1))
    )
    kept = await scene.send(message(requirements=["rare"]))
    assert (await scene.set_status(cancelled, "cancelled")).status_code == 200
    await scene.register("late", receiver, capabilities=["rare"])
    await scene.world.until_ended([kept])
    await scene.world.until_clean()
    await scene.record()
    assert receiver.ids == [kept]
    assert (await scene.status(cancelled), await scene.status(kept)) == ("cancelled", "delivered")


async def test_what_is_read_in_its_second_round_before_that_is_recorded_is_not_shown_again(
    scene: Scene,
) -> None:
    puller = await scene.register("puller")
    sent = await scene.send(message(puller))
    assert (await scene.set_status(sent, "failed")).status_code == 200
    assert (await scene.http.post("/api/dead-letters/replay", json={"ids": [sent]})).json()["replayed"] == 1
    async with listening(scene.gateway, agent_id=puller.id) as events:
        (shown,) = await events.messages(1)
        assert shown["id"] == sent
        assert (await scene.mark_read(sent, puller)).status_code == 200
    await scene.record()
    assert (scene.waiting(puller), await scene.status(sent)) == (0, "delivered")


async def test_what_was_read_while_it_waited_for_its_push_does_not_expire(scene: Scene) -> None:
    receiver = await scene.world.receiver()
    receiver.hold()
    pushed = await scene.register("pushed", receiver, concurrency=1)
    await scene.world.send(message(pushed))
    await receiver.until(lambda it: len(it.ids) == 1)
    while True:
        expires_at = datetime.now(UTC) + timedelta(milliseconds=900)
        read = await scene.send(message(pushed, expires_at=expires_at))
        reply = await scene.mark_read(read, pushed)
        if datetime.now(UTC) < expires_at:
            break  # Else the machine stood still, and it was read too late.
    assert reply.status_code == 200
    await until(lambda: datetime.now(UTC) > expires_at)
    receiver.let_go()
    await scene.world.until_clean()
    await scene.record()
    assert await scene.status(read) == "delivered"


@pytest.mark.parametrize("status", ["cancelled", "processed"])
async def test_what_has_ended_while_it_waited_for_its_push_is_not_pushed(scene: Scene, status: str) -> None:
    receiver = await scene.world.receiver()
    receiver.hold()
    pushed = await scene.register("pushed", receiver, concurrency=1)
    first = message(pushed)
    await scene.world.send(first)
    await receiver.until(lambda it: len(it.ids) == 1)
    ended, last = await scene.send(message(pushed)), await scene.send(message(pushed))
    assert (await scene.set_status(ended, status)).status_code == 200
    (delivery,) = [d for d in scene.deliveries() if d.outstanding(pushed.id)]
    await until(lambda: delivery.room.queued == 1)
    receiver.let_go()
    await scene.world.until_ended([first.id, last])
    await scene.world.until_clean()
    assert receiver.ids == [first.id, last]
    assert await scene.status(ended) == status
