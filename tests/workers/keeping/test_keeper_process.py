"""Keepers as processes: killed, doubled, stopped, and with a store taken away from under them."""

import asyncio
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import pytest
from keeper_rig import (
    LEASE_MS,
    StartKeeper,
    add_agents,
    agent_ids,
    arrived,
    hear,
    leased,
    schedule,
    server_ms,
    until,
)

from broker.servers.postgres import EmbeddedPostgres
from broker.servers.valkey import EmbeddedValkey
from broker.store.agents import fetch
from broker.store.migrate import migrate
from broker.store.partitions import days_ahead
from broker.store.pool import open_pool
from broker.streams.connection import Connection, open_connection
from broker.streams.keys import Keys
from schema.ids import new_id
from schema.times import from_ms

SHARDS = 2
LATE_MS_MAX = 2_000
"""Beyond the keeper's own quarter of a second: other work shares this machine."""

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def home() -> Iterator[Path]:
    """A directory that servers of another user can reach."""
    path = Path(tempfile.mkdtemp(prefix="ab-keeper-"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


async def all_arrived(connection: Connection) -> dict[str, list[int]]:
    """Return when each message came into an ingress, for all shards."""
    found: dict[str, list[int]] = {}
    for shard in range(SHARDS):
        for message_id, _, at_ms in await arrived(connection, shard):
            found.setdefault(message_id, []).append(at_ms)
    return found


async def spread(connection: Connection, *, count: int, over_ms: int) -> dict[str, int]:
    """Schedule messages over both shards and a span of time that begins soon; return when each is due."""
    begin_ms = await server_ms(connection) + 500
    due: dict[str, int] = {}
    async with leased(connection, "route", shards=SHARDS) as leases:
        for lease in leases:
            own = {new_id(): begin_ms + over_ms * n // count for n in range(count // SHARDS)}
            await schedule(connection, lease, own)
            due |= own
    return due


async def owners(connection: Connection) -> list[str]:
    """Return which process owns each shard."""
    values = [await connection.send("GET", Keys(shard).owner("keep")) for shard in range(SHARDS)]
    return [value.decode().split(":", 1)[1] for value in values if value]


async def test_scheduled_messages_come_once_and_in_time_although_their_keeper_is_killed(
    streams_url: str, database_url: str, connection: Connection, start_keeper: StartKeeper
) -> None:
    first = start_keeper(streams_url, database_url)
    await first.logged("partitions.kept")
    # So long that the kill comes in the middle although the machine stands still now and then.
    due = await spread(connection, count=100, over_ms=8_000)

    async def some_came() -> bool:
        return len(await all_arrived(connection)) > 40

    await until(some_came, "the first messages")
    first.kill()
    killed_ms = await server_ms(connection)
    assert len(await all_arrived(connection)) < len(due)
    second = start_keeper(streams_url, database_url)
    await second.logged("lease.taken")

    async def all_came() -> bool:
        return len(await all_arrived(connection)) == len(due)

    await until(all_came, "the rest, from the second keeper")
    came = await all_arrived(connection)
    assert {message_id: len(moments) for message_id, moments in came.items()} == dict.fromkeys(due, 1)
    assert all(came[message_id][0] >= due_ms for message_id, due_ms in due.items())
    # What fell due before the kill was not late; the rest waited for the lease, and for no more.
    before = [
        came[message_id][0] - due_ms for message_id, due_ms in due.items() if came[message_id][0] <= killed_ms
    ]
    assert median(before) < LATE_MS_MAX


async def test_two_keepers_share_the_shards_and_double_nothing(
    streams_url: str, database_url: str, connection: Connection, start_keeper: StartKeeper
) -> None:
    keepers = [start_keeper(streams_url, database_url, lease_ms=30_000) for _ in range(2)]

    async def shared() -> bool:
        return sorted(await owners(connection)) == sorted(keeper.name for keeper in keepers)

    await until(shared, "a shard for each")
    agents = [agent for shard in range(SHARDS) for agent in agent_ids(3, shard=shard, shards=SHARDS)]
    now_ms = await server_ms(connection)
    await hear(connection, 0, dict.fromkeys(agents[:3], now_ms))
    await hear(connection, 1, dict.fromkeys(agents[3:], now_ms))
    due = await spread(connection, count=60, over_ms=1_000)

    async def all_came() -> bool:
        return len(await all_arrived(connection)) == len(due)

    await until(all_came, "every message")
    assert Counter(map(len, (await all_arrived(connection)).values())) == {1: len(due)}

    async def counted() -> bool:
        pages = [await keeper.metrics() for keeper in keepers]
        return all(
            "agent_broker_agents_online 3.0" in page
            and 'agent_broker_queue_depth_messages{queue="ingress"} 30.0' in page
            for page in pages
        )

    await until(counted, "each shows its own shard")
    # Exactly one of them keeps the days of the deployment.
    ahead = sorted([("partitions_ahead_days 7.0" in await keeper.metrics()) for keeper in keepers])
    assert ahead == [False, True]


async def test_a_stopped_keeper_gives_up_its_shards_at_once(
    streams_url: str, database_url: str, connection: Connection, start_keeper: StartKeeper
) -> None:
    keeper = start_keeper(streams_url, database_url, lease_ms=60_000)
    await keeper.logged("partitions.kept")

    await keeper.stop()

    assert await owners(connection) == []
    assert len(keeper.events("lease.given_up")) == SHARDS
    assert not keeper.events("keep.shard_failed")


async def test_postgres_away_delays_heartbeats_and_nothing_else(
    streams_url: str, home: Path, connection: Connection, start_keeper: StartKeeper
) -> None:
    postgres = EmbeddedPostgres(home / "postgres")
    await asyncio.to_thread(postgres.start)
    try:
        await migrate(postgres.url)
        pool = await open_pool(postgres.url, application_name="test")
        agents = [agent for shard in range(SHARDS) for agent in agent_ids(2, shard=shard, shards=SHARDS)]
        await add_agents(pool, agents)
        await pool.aclose()
        keeper = start_keeper(streams_url, postgres.url)
        await keeper.logged("partitions.kept")
        await asyncio.to_thread(postgres.stop)

        now_ms = await server_ms(connection)
        heard = {agent: now_ms + number for number, agent in enumerate(agents)}
        for shard in range(SHARDS):
            own = agents[2 * shard : 2 * shard + 2]
            await hear(connection, shard, {agent: heard[agent] for agent in own})
        await keeper.logged("heartbeats.store_away")
        due = await spread(connection, count=4, over_ms=100)

        async def all_came() -> bool:
            return len(await all_arrived(connection)) == len(due)

        await until(all_came, "scheduled messages without Postgres")

        await asyncio.to_thread(postgres.start)
        pool = await open_pool(postgres.url, application_name="test")

        async def saved() -> bool:
            return {agent.id: agent.heartbeat_ms for agent in await fetch(pool, agents)} == heard

        await until(saved, "the heartbeats of the time without Postgres")
        assert await days_ahead(pool, from_ms(now_ms).date()) == 7
        await pool.aclose()
        await keeper.stop()
    finally:
        await asyncio.to_thread(postgres.stop, "immediate")


async def test_redis_restarted_is_found_again_and_what_fell_due_meanwhile_comes(
    home: Path, database_url: str, start_keeper: StartKeeper
) -> None:
    valkey = EmbeddedValkey(home / "valkey", maxmemory_bytes=64 * 1024**2)
    await asyncio.to_thread(valkey.start)
    try:
        keeper = start_keeper(valkey.url, database_url)
        await keeper.logged("partitions.kept")
        async with await open_connection(valkey.url, name="test") as connection:
            due = await spread(connection, count=10, over_ms=100)
            await asyncio.to_thread(valkey.stop)
        await asyncio.sleep(LEASE_MS / 1000)  # the lease runs out: another way back than a short break
        await asyncio.to_thread(valkey.start)
        async with await open_connection(valkey.url, name="test") as connection:

            async def all_came() -> bool:
                return len(await all_arrived(connection)) == len(due)

            await until(all_came, "what fell due while Redis was away")
            assert Counter(map(len, (await all_arrived(connection)).values())) == {1: len(due)}
        await keeper.stop()
    finally:
        await asyncio.to_thread(valkey.stop)
