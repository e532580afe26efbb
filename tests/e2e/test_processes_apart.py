"""Several workers, and trades apart: shards spread, are taken over, and everything is delivered; Postgres
stopped for a while, and agents that were silent."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from receivers import Gate, in_turn
from redis.asyncio import Redis
from role_processes import RoleProcesses
from scene import Scene, a_scene, eventually, spread

from broker.client.streams import message
from broker.servers.postgres import EmbeddedPostgres
from broker.store.migrate import migrate
from broker.streams.keys import Keys

pytestmark = pytest.mark.e2e

SHARDS = 4
SETTINGS = {"SHARDS": str(SHARDS), "LEASE_MS": "8000"}


@pytest.fixture
def roles(tmp_path: Path, streams_url: str, database_url: str) -> Iterator[RoleProcesses]:
    """Gateway, recorder and keeper; the workers are the test's."""
    yield from _running(RoleProcesses(tmp_path, streams_url, database_url, **SETTINGS))


def _running(roles: RoleProcesses) -> Iterator[RoleProcesses]:
    for role in ("gateway", "recorder", "keeper"):
        roles.start(role)
    yield roles
    roles.stop()


@pytest.fixture
async def scene(roles: RoleProcesses) -> AsyncIterator[Scene]:
    async with a_scene(roles.place) as scene:
        await eventually(scene.client.is_ready, what="the gateway")
        yield scene


async def owners(redis: "Redis", trade: str) -> list[str]:
    """Return the process that holds each shard for a trade; '' where nobody does."""
    values = [await redis.get(Keys(shard).owner(trade)) for shard in range(SHARDS)]
    return [value.decode().partition(":")[2] if value else "" for value in values]


async def until_owned(scene: Scene, **expected: dict[str, int]) -> None:
    """Wait until the shards of trades are spread like this: trade -> process -> how many."""

    async def spread_so() -> bool:
        for trade, shares in expected.items():
            held = await owners(scene.redis, trade)
            if {name: held.count(name) for name in held} != shares:
                return False
        return True

    await eventually(spread_so, what=f"shards spread {expected}")


async def test_shards_spread_over_two_workers_and_one_takes_over_from_the_other(
    roles: RoleProcesses, scene: Scene
) -> None:
    for name in ("worker-a", "worker-b"):
        roles.start(name, "worker")
    even = {"worker-a": SHARDS // 2, "worker-b": SHARDS // 2}
    await until_owned(scene, route=even, deliver=even)
    # The same shards for both trades: what a worker routes it posts from memory.
    assert await owners(scene.redis, "route") == await owners(scene.redis, "deliver")
    gate = Gate()
    agents = [await scene.agent(f"agent-{number}", gate) for number in range(8)]
    await scene.publish(*(message({"n": n}, to=spread(agents, n)) for n in range(80)))
    held = await scene.held(gate, at_least=8 * 4)
    with scene.ledger.broken():
        roles.kill("worker-a")
        gate.open()
        async with scene.load(lambda n: scene.send(spread(agents, n))):
            alone = {"worker-b": SHARDS}
            await until_owned(scene, route=alone, deliver=alone)
            await scene.whole_again(agents[0])
    await scene.balance()
    assert scene.ledger.repeated <= {request.id for request in held}


async def test_a_worker_that_joins_or_leaves_under_load_repeats_nothing(
    roles: RoleProcesses, scene: Scene
) -> None:
    roles.start("worker-a", "worker")
    await until_owned(scene, route={"worker-a": SHARDS})
    agents = [await scene.agent(f"agent-{number}") for number in range(8)]
    skill = scene.named("skill")
    agents += [await scene.agent(f"able-{number}", capabilities=[skill]) for number in range(4)]
    async with scene.load(
        lambda n: scene.publish(message({"n": n}, to=spread(agents, n))),
        lambda n: scene.send(requirements=[skill]),
    ):
        await scene.more_received(30)
        roles.start("worker-b", "worker")
        even = {"worker-a": SHARDS // 2, "worker-b": SHARDS // 2}
        await until_owned(scene, route=even, deliver=even)
        await scene.more_received(30)
        await asyncio.to_thread(roles.stop, "worker-a")
        await until_owned(scene, route={"worker-b": SHARDS}, deliver={"worker-b": SHARDS})
        await scene.more_received(30)
    await scene.balance()
    assert scene.ledger.repeated == set()


async def test_routing_and_delivery_in_processes_of_their_own(roles: RoleProcesses, scene: Scene) -> None:
    roles.start("router", "worker", "--trades", "route")
    roles.start("deliverer", "worker", "--trades", "deliver")
    skill = scene.named("skill")
    agents = [await scene.agent(f"agent-{n}", capabilities=[skill]) for n in range(6)]
    await scene.publish(*(message({"n": n}, to=spread(agents, n), priority=n % 10 + 1) for n in range(120)))
    for n in range(20):
        await scene.send(requirements=[skill], priority=n % 10 + 1)
    await scene.balance()
    assert scene.ledger.repeated == set()
    gate = Gate()
    slow = await scene.agent("slow", gate)
    ids = await scene.publish(*(message({"n": n}, to=slow.id) for n in range(10)))
    held = {request.id for request in await scene.held(gate, at_least=4)}
    with scene.ledger.broken():
        roles.kill("deliverer")
        roles.start("deliverer-2", "worker", "--trades", "deliver")
        gate.open()
        await scene.drain()
    await scene.balance()
    assert scene.ledger.received.keys() >= set(ids)
    assert scene.ledger.repeated == held


async def test_a_silent_agent_gets_what_was_parked_when_it_is_heard_again(
    roles: RoleProcesses, scene: Scene
) -> None:
    skill = scene.named("skill")
    agent = await scene.agent("silent", capabilities=[skill])
    # As if it had been registered long ago and not been heard since.
    await scene.fetch(
        "UPDATE agents SET heartbeat_at = now() - interval '1 hour', created_at = now() - interval '1 day',"
        " updated_at = now() - interval '1 day' WHERE id = $1",
        agent.id,
    )
    for shard in range(SHARDS):
        await scene.redis.zrem(Keys(shard).presence, agent.id)
    roles.start("worker")
    message_id = await scene.send(requirements=[skill], wait="recorded", timeout_ms=60_000)
    waiting = await scene.client.message(message_id)
    assert (waiting.status, waiting.to_agent_id) == ("pending", None)
    named = await scene.send(agent.id)
    await scene.client.heartbeat(agent.id)
    await scene.balance()
    assert scene.ledger.received.keys() == {message_id, named}


async def all_twice(scene: Scene, ids: list[str]) -> bool:
    """Tell whether each message was received at least twice."""
    return all(len(scene.ledger.received[message_id]) > 1 for message_id in ids)


@pytest.fixture
def own_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A PostgreSQL of the test's own, to be stopped."""
    server = EmbeddedPostgres(tmp_path_factory.mktemp("postgres"))
    server.start()
    asyncio.run(migrate(server.url))
    yield server
    server.stop("immediate")


@pytest.fixture
def roles_on_own_postgres(
    tmp_path: Path, streams_url: str, own_postgres: EmbeddedPostgres
) -> Iterator[RoleProcesses]:
    yield from _running(RoleProcesses(tmp_path, streams_url, own_postgres.url, **SETTINGS))


async def test_everything_goes_on_while_postgres_is_stopped_and_is_recorded_afterwards(
    roles_on_own_postgres: RoleProcesses, own_postgres: EmbeddedPostgres
) -> None:
    roles_on_own_postgres.start("worker")
    async with a_scene(roles_on_own_postgres.place) as scene:
        await eventually(scene.client.is_ready, what="the gateway")
        skill = scene.named("skill")
        agents = [await scene.agent(f"agent-{n}", capabilities=[skill]) for n in range(6)]
        flaky = await scene.agent("flaky", in_turn(500, 200))
        async with scene.load(
            lambda n: scene.publish(message({"n": n}, to=spread(agents, n))),
            lambda n: scene.publish(message({"n": n}, requirements=[skill])),
            lambda n: scene.send(spread(agents, n)),
            lambda n: scene.send(requirements=[skill]),
        ):
            await scene.whole_again(agents[0])
            await asyncio.to_thread(own_postgres.stop)
            # Each of these is published, routed, delivered and retried with nothing but Redis.
            away = await scene.publish(*(message({"n": n}, to=flaky.id) for n in range(20)))
            await scene.more_received(300)
            await eventually(lambda: all_twice(scene, away), what="retries while Postgres is away")
            # Nothing that is not in Postgres may have left the ledger, whatever becomes of the recorder.
            roles_on_own_postgres.kill("recorder")
            roles_on_own_postgres.start("recorder")
            await asyncio.to_thread(own_postgres.start)
            await scene.whole_again(agents[0])
        await scene.balance()
        assert scene.ledger.repeated == set(away)
        rows = await scene.fetch(
            "SELECT attempt, response_code FROM message_delivery_log WHERE message_id = ANY($1)", away
        )
        assert sorted(map(tuple, rows)) == [(1, 500)] * 20 + [(2, 200)] * 20
