"""Stores that fail in their worst ways, under processes that nobody starts again: a PostgreSQL that takes
connections and says nothing, and a Redis that has lost everything it held."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from role_processes import RoleProcesses
from scene import Place, Scene, a_scene, eventually, spread
from silent_postgres import silenceable

from broker.client.streams import message
from broker.streams.keys import DEPLOYMENT

pytestmark = pytest.mark.e2e

SETTINGS = {"SHARDS": "2", "LEASE_MS": "8000", "DEDUP_WINDOW_MS": "60000"}
ROLES = ("gateway", "recorder", "keeper", "worker")


@asynccontextmanager
async def running(home: Path, streams_url: str, database_url: str, direct_url: str) -> AsyncIterator[Any]:
    """Run the roles on their URLs; the scene looks into Postgres directly."""
    roles = RoleProcesses(home, streams_url, database_url, **SETTINGS)
    try:
        for role in ROLES:
            roles.start(role)
        place = Place(roles.place.api_url, roles.place.api_key, streams_url, direct_url)
        async with a_scene(place) as scene:
            await eventually(scene.client.is_ready, what="the gateway")
            yield roles, scene
    finally:
        await asyncio.to_thread(roles.stop)


async def page(roles: RoleProcesses, process: str, path: str) -> httpx.Response:
    """Ask the metrics port of a process."""

    async def told() -> bool:
        return bool(roles.events("process.serves_metrics", process))

    await eventually(told, what=f"the metrics port of {process}")
    port = roles.events("process.serves_metrics", process)[-1]["metrics_port"]
    async with httpx.AsyncClient(trust_env=False) as http:
        return await http.get(f"http://127.0.0.1:{port}{path}")


async def test_publishing_routing_and_delivery_go_on_while_postgres_says_nothing(
    tmp_path: Path, streams_url: str, database_url: str
) -> None:
    async with (
        silenceable(database_url) as postgres,
        running(tmp_path, streams_url, postgres.url, database_url) as (roles, scene),
    ):
        skill = scene.named("skill")
        agents = [await scene.agent(f"agent-{n}", capabilities=[skill]) for n in range(4)]
        key = agents[0].api_key
        assert (await as_agent(scene, key, agents[1].id)).status_code == 202
        await scene.whole_again(agents[0])
        postgres.fall_silent()
        stranger = scene.named("nobody-yet")
        async with scene.load(
            lambda n: scene.publish(message({"n": n}, to=spread(agents, n))),
            lambda n: scene.publish(message({"n": n}, requirements=[skill])),
            lambda n: scene.send(spread(agents, n)),
        ):
            # Nobody can say whether this name is an agent's by now; nobody else waits for the answer.
            unknown = await scene.publish(message({}, to=stranger))
            await scene.more_received(150)
            # An agent's key is believed for ten minutes.
            assert (await as_agent(scene, key, agents[1].id)).status_code == 202
            await scene.more_received(50)
        # One that starts now has no directory: it says so, and begins by itself.
        roles.kill("worker")
        roles.start("late", "worker")
        ready = await page(roles, "late", "/readyz")

        async def waits() -> bool:
            nonlocal ready
            ready = await page(roles, "late", "/readyz")
            return ready.status_code == 503 and "postgres" in ready.text

        await eventually(waits, what="a worker that says it waits for Postgres")
        assert "no directory of agents yet" in ready.text
        assert 'awaited_stores{store="postgres"} 1.0' in (await page(roles, "late", "/metrics")).text
        assert roles.events("directory.load_failed", "late")
        waiting = await scene.publish(message({}, to=agents[0].id))
        postgres.speak()
        with scene.ledger.broken():
            await scene.drain()
        assert (await page(roles, "late", "/readyz")).status_code == 200
        assert scene.ledger.received.keys() >= set(waiting)
        shown = await scene.client.message(unknown[0])
        assert (shown.status, shown.status_reason) == ("failed", "unknown_recipient")
        account = await scene.ledger.account(database_url)
        assert not account.faults(), account.faults()


async def as_agent(scene: Scene, key: str | None, to: str) -> httpx.Response:
    """Send with an agent's own key, as any HTTP client would."""
    assert key is not None
    async with httpx.AsyncClient(base_url=scene.place.api_url, trust_env=False, timeout=60) as http:
        reply = await http.post(
            "/api/messages?wait=accepted", json={"to_agent_id": to, "content": {}}, headers=bearer(key)
        )
    scene.ledger.attempted.add(reply.json()["id"])
    scene.ledger.acknowledge([reply.json()["id"]])
    return reply


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


async def test_after_redis_lost_everything_all_goes_on_by_itself_and_an_alarm_is_raised(
    tmp_path: Path, streams_url: str, database_url: str
) -> None:
    async with running(tmp_path, streams_url, database_url, database_url) as (roles, scene):
        skill = scene.named("skill")
        agents = [await scene.agent(f"agent-{n}", capabilities=[skill]) for n in range(4)]
        await scene.whole_again(agents[0])
        # Nothing is in flight, so that nothing is lost with it, and everything can be counted afterwards.
        await scene.drain()
        await scene.redis.flushall()
        await scene.redis.script_flush()

        async def restored() -> bool:
            return await scene.redis.hget(DEPLOYMENT, "shards") == b"2"

        await eventually(restored, what="what was fixed when the deployment was created")
        late = await scene.agent("late", capabilities=[skill])
        async with scene.load(
            lambda n: scene.publish(message({"n": n}, to=spread([*agents, late], n))),
            lambda n: scene.send(requirements=[skill]),
        ):
            await scene.more_received(100)
        await scene.balance()
        assert scene.ledger.repeated == set()
        (alarm,) = roles.events("streams.emptied", "keeper")
        assert alarm["level"] == "error"
        assert "redis_emptied_events_total 1.0" in (await page(roles, "keeper", "/metrics")).text
