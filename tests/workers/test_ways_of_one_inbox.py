"""One inbox, every way out of it: polling, sockets, the native group, pushes; changed while messages wait."""

import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from gateway_rig import calling, held, settings_for, until_ready
from realtime_rig import talking
from receiver import Receiver
from worker_rig import World, message, until

from broker.client.native import NativeInbox
from broker.core.fold import fold
from broker.gateway.serve import Running
from broker.store import partitions, record
from broker.streams.keys import ARRIVED
from schema.agent import Agent
from schema.ids import shard_of
from schema.ledger import EventKind
from schema.message import LANES
from schema.times import from_ms

SHARDS = 2


@pytest.fixture
async def gateway(streams_url: str, database_url: str) -> AsyncIterator[Running]:
    async with held(settings_for(streams_url, database_url, shards=SHARDS)) as one:
        await until_ready(one)
        await partitions.ensure_day(one.services.pool, from_ms(one.services.now_ms()).date())
        yield one


class Scene:
    """An agent that the gateway and the workers know."""

    def __init__(self, world: World, gateway: Running, http: httpx.AsyncClient) -> None:
        self.world, self.gateway, self.http = world, gateway, http
        self.id = self.key = ""
        self._agent: Agent

    async def register(self, endpoint: str | None = None) -> None:
        reply = await self.http.post("/api/agents", json={"name": "worker", "endpoint": endpoint})
        body = reply.json()
        self.id, self.key = body["id"], body["api_key"]
        self._agent = Agent(
            id=self.id, name="worker", endpoint=endpoint, signing_secret=body["signing_secret"]
        )
        self.world.put(self._agent)

    async def change_endpoint(self, endpoint: str | None) -> None:
        changed = await self.http.patch(f"/api/agents/{self.id}", json={"endpoint": endpoint})
        assert changed.status_code == 200, changed.text
        self._agent = Agent(
            id=self.id, name="worker", endpoint=endpoint, signing_secret=self._agent.signing_secret
        )
        self.world.put(self._agent)

    async def send(self, count: int) -> list[str]:
        return await self.world.send(*[message(self.id, priority=1 + n % 10) for n in range(count)])

    def waiting(self) -> int:
        keys = self.world.keys[shard_of(self.id, SHARDS)]
        return sum(self.world.raw.xlen(keys.mailbox(self.id, lane)) for lane in LANES)

    async def record(self) -> None:
        """Write down what is in the ledgers, as the recorder does; again is harmless."""
        await record.write(self.gateway.services.pool, fold(self.world.events()))

    async def statuses(self) -> dict[str, str]:
        rows = await self.gateway.services.pool.fetch("SELECT id, status FROM agent_messages")
        return {str(row["id"]): row["status"] for row in rows}

    def ended(self) -> dict[str, int]:
        """Return how often the ledger says of each message that it ended."""
        found: dict[str, int] = {}
        for event in self.world.events():
            if event.kind is EventKind.SETTLED:
                found[event.id] = found.get(event.id, 0) + 1
        return found


@pytest.fixture
async def scene(streams_url: str, gateway: Running) -> AsyncIterator[Scene]:
    async with World(streams_url, shards=SHARDS) as world, calling(gateway) as http:
        await world.site()
        yield Scene(world, gateway, http)


async def poll(scene: Scene, limit: int) -> list[str]:
    reply = await scene.http.get(
        "/api/v1/messaging/inbox", params={"agent_id": scene.id, "limit": limit, "wait_ms": 5_000}
    )
    assert reply.status_code == 200, reply.text
    return [one["message_id"] for one in reply.json()["messages"]]


async def test_work_is_taken_by_one_way_after_another_without_loss_or_repetition(scene: Scene) -> None:
    receiver: Receiver = await scene.world.receiver()
    await scene.register()
    sent = await scene.send(15)
    await until(lambda: scene.waiting() == 15)
    await scene.record()
    done: list[str] = []

    for message_id in await poll(scene, 3):
        marked = await scene.http.post(
            f"/api/v1/messaging/mark-read/{message_id}", params={"agent_id": scene.id}
        )
        assert marked.status_code == 200, marked.text
        done.append(message_id)

    async with talking(scene.gateway, scene.key, prefetch=4) as socket:
        for one in await socket.messages(4):
            assert one["id"] not in done
            if len(done) < 6:
                assert (await socket.ack(one["id"], status="processed"))["type"] == "acked"
                done.append(one["id"])

    async with await NativeInbox.open(scene.world.url, scene.id) as inbox:
        in_hand = []
        async for native in inbox:
            assert native.id not in done
            in_hand.append(native)
            if len(in_hand) == 5:
                break
        for native in in_hand[:3]:
            assert await inbox.acknowledge(native)
            done.append(native.id)

        assert not set(await poll(scene, 100)) & set(done[:3])
        await scene.change_endpoint(receiver.url())
        sent += await scene.send(3)
        await receiver.until(lambda it: len(set(it.ids)) == 9)
        assert not set(receiver.ids) & set(done)
        await until(lambda: scene.waiting() == 0)
        assert not await inbox.acknowledge(in_hand[3])

    assert set(receiver.ids) | set(done) == set(sent)
    await scene.world.until_clean()
    await scene.record()
    assert set((await scene.statuses()).values()) == {"delivered", "processed"}
    assert len(await scene.statuses()) == 18
    assert await poll_now(scene) == []
    # What was marked as read over HTTP went to the record directly; all else went over the ledger, once.
    assert scene.ended() == dict.fromkeys(set(sent) - set(done[:3]), 1)


async def poll_now(scene: Scene) -> list[str]:
    reply = await scene.http.get("/api/v1/messaging/inbox", params={"agent_id": scene.id})
    return [one["message_id"] for one in reply.json()["messages"]]


async def test_what_an_endpoint_has_not_taken_is_pulled_when_it_is_taken_away(scene: Scene) -> None:
    receiver: Receiver = await scene.world.receiver()
    receiver.script = lambda got: 200 if got.message["priority"] == 1 else 503
    await scene.register(receiver.url())
    sent = await scene.send(6)
    await scene.world.until_ended(sent[:1])
    await receiver.until(lambda it: len(set(it.ids)) >= 4)
    await scene.change_endpoint(None)
    async with talking(scene.gateway, scene.key) as socket:
        found: list[dict[str, Any]] = await socket.messages(5)
        assert {one["id"] for one in found} == set(sent[1:])
        for one in found:
            assert (await socket.ack(one["id"]))["type"] == "acked"
    await scene.world.until_ended(sent)
    await scene.record()
    assert set((await scene.statuses()).values()) == {"delivered"}
    assert len(await scene.statuses()) == 6
    assert scene.waiting() == 0


async def test_only_agents_that_pull_are_told_that_something_arrived_once_per_batch(scene: Scene) -> None:
    receiver: Receiver = await scene.world.receiver()
    pulling = [scene.world.agent(shard=0) for _ in range(2)]
    pushed = scene.world.agent(receiver, shard=0)
    with scene.world.raw.pubsub() as heard:
        heard.subscribe(ARRIVED)
        await until(lambda: heard.get_message(timeout=0) is not None)
        sent = await scene.world.send(*[message(pushed) for _ in range(5)])
        await scene.world.until_ended(sent)
        await scene.world.send(*[message(agent) for agent in pulling for _ in range(3)])
        said: list[Any] = []
        await until(lambda: bool(said.append(heard.get_message(timeout=0)) or said[-1]))
    told = json.loads(said[-1]["data"])
    assert told == sorted(agent.id for agent in pulling)
