"""Everything on a Redis Cluster of three nodes: slots move and nodes die under load, and nothing is lost; a
message comes twice only where its request was under way when its shard began anew."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from cluster import Cluster
from role_processes import RoleProcesses
from scene import Scene, a_scene, eventually, spread

from broker.client.streams import message
from broker.streams.slots import slot_of_tag
from schema.limits import SHARD_IN_FLIGHT_MAX

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

SHARDS = 6
ROLES = ("gateway", "recorder", "keeper", "worker")


@pytest.fixture
def roles(tmp_path: Path, cluster: Cluster, database_url: str) -> Iterator[RoleProcesses]:
    cluster.spread(SHARDS)
    settings = {"SHARDS": str(SHARDS), "LEASE_MS": "8000"}
    roles = RoleProcesses(tmp_path, cluster.every_url, database_url, **settings)
    for role in ROLES:
        roles.start(role)
    yield roles
    roles.stop()


@pytest.fixture
async def scene(roles: RoleProcesses, cluster: Cluster) -> AsyncIterator[Scene]:
    # The scene's own look at Redis goes by one node; a cluster says the rest.
    roles.place.redis_url = cluster.url
    async with a_scene(roles.place) as scene:
        await eventually(scene.client.is_ready, what="the gateway")
        yield scene


async def test_slots_move_under_load_and_nothing_is_lost(cluster: Cluster, scene: Scene) -> None:
    skill = scene.named("skill")
    agents = [await scene.agent(f"agent-{n}", capabilities=[skill] if n % 2 else []) for n in range(12)]
    moved = 0
    async with scene.load(
        lambda n: scene.publish(message({"n": n}, to=spread(agents, n))),
        lambda n: scene.publish(message({"n": n}, requirements=[skill], priority=n % 10 + 1)),
        lambda n: scene.send(spread(agents, n)),
        lambda n: scene.send(requirements=[skill]),
    ):
        await scene.more_received(60)
        with scene.ledger.broken():
            for shard, move in ((0, cluster.migrate), (1, cluster.migrate_by_key), (2, cluster.migrate)):
                target = (cluster.node_of(shard) + 1) % len(cluster.servers)
                await asyncio.to_thread(move, slot_of_tag(b"%d" % shard), target)
                moved += 1
                await scene.more_received(30)
            await scene.whole_again(agents[0])
    await scene.balance()
    assert len(scene.ledger.repeated) <= moved * SHARD_IN_FLIGHT_MAX


async def test_a_node_is_killed_and_started_again_under_load_and_nothing_is_lost(
    cluster: Cluster, scene: Scene
) -> None:
    agents = [await scene.agent(f"agent-{n}") for n in range(12)]
    dead = next(n for n in range(3) if cluster.port(n) != cluster.port(0))
    async with scene.load(
        lambda n: scene.publish(message({"n": n}, to=spread(agents, n))),
        lambda n: scene.publish(message({"n": n}, to=spread(agents, n + 3))),
    ):
        await scene.more_received(60)
        with scene.ledger.broken():
            await asyncio.to_thread(cluster.kill, dead)
            await asyncio.to_thread(cluster.restart, dead)
            for agent in agents:
                await scene.whole_again(agent)
    await scene.balance()
    assert len(scene.ledger.repeated) <= SHARDS * SHARD_IN_FLIGHT_MAX
