"""Traps of the stores, set on real servers: the doctor names each, and nobody starts on the fatal ones."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
import redis
from gateway_rig import calling, held, settings_for, until_ready

from broker.core.diagnosis import Finding, Severity
from broker.doctor import gate
from broker.doctor.examination import examine
from broker.doctor.gate import refuse_unsafe_stores
from broker.gateway.serve import Running, running
from broker.servers.postgres import EmbeddedPostgres
from broker.servers.valkey import EmbeddedValkey
from broker.settings import Settings
from broker.store.migrate import migrate
from broker.store.pool import Pool, open_pool
from broker.streams.keys import DEPLOYMENT
from schema.errors import Unsafe

MEMORY_BYTES = 64 * 1024**2


def settings(streams_url: str, database_url: str, **more: object) -> Settings:
    return settings_for(streams_url, database_url, **({"agent_api_key": "0123456789abcdefghijklmnop"} | more))


async def found(given: Settings, store: str) -> dict[str, Severity]:
    """Return what the doctor says of one store."""
    examined: list[Finding] = await examine(given)
    return {f.code: f.severity for f in examined if f.code.startswith(f"{store}.")}


async def assert_fatal(given: Settings, code: str) -> None:
    """The doctor names exactly this, and nobody starts on it."""
    assert await found(given, code.partition(".")[0]) == {code: Severity.FATAL}
    with pytest.raises(Unsafe, match=code):
        await refuse_unsafe_stores(given)


# --- Redis ------------------------------------------------------------------------------------------------


@contextmanager
def configured(url: str, **values: str) -> Iterator[redis.Redis]:
    """Set a real server wrong for as long as the context lasts."""
    client = redis.Redis.from_url(url)
    before = {name: client.config_get(name)[name] for name in values}
    try:
        for name, value in values.items():
            client.config_set(name, value)
        yield client
    finally:
        for name, value in before.items():
            client.config_set(name, value)
        client.close()
        client.connection_pool.disconnect()


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"maxmemory-policy": "allkeys-lru"}, "redis.evicts"),
        ({"maxmemory-policy": "volatile-ttl"}, "redis.evicts"),
        ({"maxmemory": "0"}, "redis.maxmemory_unset"),
        ({"appendfsync": "everysec"}, "redis.weak_appendfsync"),
        ({"appendfsync": "no"}, "redis.weak_appendfsync"),
        ({"appendonly": "no"}, "redis.no_append_only_file"),
        ({"no-appendfsync-on-rewrite": "yes"}, "redis.no_sync_in_rewrites"),
    ],
)
async def test_a_redis_set_wrong_is_found_and_nobody_starts_on_it(
    any_streams_url: str, postgres_url: str, values: dict[str, str], code: str
) -> None:
    with configured(any_streams_url, **values):
        await assert_fatal(settings(any_streams_url, postgres_url), code)


async def test_a_deployment_of_another_number_of_shards_is_found(streams_url: str, postgres_url: str) -> None:
    with configured(streams_url) as client:
        client.hset(DEPLOYMENT, "shards", 7)
        await assert_fatal(settings(streams_url, postgres_url), "redis.other_shards")


async def test_a_full_redis_and_one_with_few_clients_left_are_found(
    streams_url: str, postgres_url: str
) -> None:
    given = settings(streams_url, postgres_url)
    with configured(streams_url, maxmemory="512mb", maxclients="10000") as client:
        client.config_set("maxmemory", int(client.info("memory")["used_memory"] * 1.3))
        assert "redis.memory_high" in await found(given, "redis")
        client.config_set("maxmemory", "512mb")
        client.config_set("maxclients", client.info("clients")["connected_clients"] + 1)
        # One more is the doctor's own.
        assert "redis.many_clients" in await found(given, "redis")
    await refuse_unsafe_stores(given)


async def test_a_replica_is_no_primary(tmp_path: Path, postgres_url: str) -> None:
    server = EmbeddedValkey(tmp_path, maxmemory_bytes=MEMORY_BYTES)
    await asyncio.to_thread(server.start)
    try:
        with configured(server.url) as client:
            client.replicaof("127.0.0.1", 1)
            assert (await found(settings(server.url, postgres_url), "redis"))[
                "redis.replica"
            ] is Severity.FATAL
            with pytest.raises(Unsafe, match=r"redis\.replica"):
                await refuse_unsafe_stores(settings(server.url, postgres_url))
            client.replicaof("NO", "ONE")
    finally:
        await asyncio.to_thread(server.stop)


# --- PostgreSQL -------------------------------------------------------------------------------------------


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[Pool]:
    pool = await open_pool(url, size=1, application_name="test")
    yield pool
    await pool.aclose()


async def altered(url: str, setting: str) -> None:
    """Change a setting of the sessions of one database; it is dropped after the test."""
    async with opened(url) as pool:
        name = await pool.fetch_value("SELECT current_database()")
        await pool.execute(f"ALTER DATABASE {name} SET {setting}")


@pytest.mark.parametrize(
    ("setting", "code"),
    [
        ("synchronous_commit = off", "postgres.synchronous_commit_off"),
        ("default_transaction_read_only = on", "postgres.read_only"),
    ],
)
async def test_a_database_set_wrong_is_found_and_nobody_starts_on_it(
    streams_url: str, database_url: str, setting: str, code: str
) -> None:
    await altered(database_url, setting)
    await assert_fatal(settings(streams_url, database_url), code)


@pytest.mark.parametrize(
    ("setting", "code", "severity"),
    [
        ("fsync", "postgres.fsync_off", Severity.FATAL),
        ("full_page_writes", "postgres.full_page_writes_off", Severity.FATAL),
        ("autovacuum", "postgres.autovacuum_off", Severity.WARNING),
    ],
)
async def test_a_server_set_wrong_is_found(
    streams_url: str, database_url: str, setting: str, code: str, severity: Severity
) -> None:
    given = settings(streams_url, database_url)
    async with opened(database_url) as pool:
        try:
            await pool.execute(f"ALTER SYSTEM SET {setting} = off")
            await reloaded(pool, setting, "off")
            assert await found(given, "postgres") == {code: severity}
            if severity is Severity.FATAL:
                await assert_fatal(given, code)
        finally:
            await pool.execute(f"ALTER SYSTEM RESET {setting}")
            await reloaded(pool, setting, "on")


async def reloaded(pool: Pool, setting: str, value: str) -> None:
    await pool.execute("SELECT pg_reload_conf()")
    async with asyncio.timeout(10):
        while await pool.fetch_value(f"SHOW {setting}") != value:  # noqa: ASYNC110  # it does not tell
            await asyncio.sleep(0.01)


async def test_a_database_that_is_not_utf8_is_found(streams_url: str, postgres_url: str) -> None:
    url = postgres_url.replace("/agent_broker?", "/not_utf8?")
    async with opened(postgres_url) as pool:
        await pool.execute("CREATE DATABASE not_utf8 TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'")
        try:
            given = settings(streams_url, url)
            assert (await found(given, "postgres"))["postgres.encoding"] is Severity.FATAL
            with pytest.raises(Unsafe, match=r"postgres\.encoding"):
                await refuse_unsafe_stores(given)
        finally:
            await pool.execute("DROP DATABASE not_utf8 WITH (FORCE)")


async def test_a_standby_and_one_with_few_connections_is_found(tmp_path: Path, streams_url: str) -> None:
    server = EmbeddedPostgres(tmp_path)
    await asyncio.to_thread(server.start)
    try:
        await migrate(server.url)
        given = settings(streams_url, server.url)
        async with opened(server.url) as pool:
            await pool.execute("ALTER SYSTEM SET max_connections = 20")
        await asyncio.to_thread(server.stop)
        await asyncio.to_thread(server.start)
        assert await found(given, "postgres") == {"postgres.few_connections": Severity.WARNING}
        await asyncio.to_thread(server.stop)
        (tmp_path / "data" / "standby.signal").touch(mode=0o600)
        await asyncio.to_thread(server.start)
        assert (await found(given, "postgres"))["postgres.read_only"] is Severity.FATAL
        with pytest.raises(Unsafe, match=r"postgres\.read_only"):
            await refuse_unsafe_stores(given)
    finally:
        await asyncio.to_thread(server.stop, "immediate")


async def test_what_the_record_lacks_is_found_and_keeps_nobody_from_starting(
    streams_url: str, database_url: str
) -> None:
    given = settings(streams_url, database_url)
    async with opened(database_url) as pool:
        day = datetime.now(UTC).date()
        for row in await pool.fetch(
            "SELECT inhrelid::regclass::text AS name FROM pg_inherits"
            " WHERE inhparent = 'agent_messages'::regclass AND right(inhrelid::regclass::text, 8) > $1",
            f"{day:%Y%m%d}",
        ):
            await pool.execute(f"DROP TABLE {row['name']}")
        await pool.execute(
            "INSERT INTO quarantine (at, shard, stream, entry, reason, raw)"
            " VALUES (now(), 0, 'ledger', '1-1', 'malformed', '')"
        )
        assert await found(given, "postgres") == {
            "postgres.partitions_short": Severity.WARNING,
            "postgres.quarantine": Severity.WARNING,
        }
        await pool.execute("DELETE FROM schema_migrations WHERE version = 1")
        assert await found(given, "postgres") == {"postgres.migrations_pending": Severity.WARNING}
    await refuse_unsafe_stores(given)


# --- stores that come late --------------------------------------------------------------------------------


async def test_an_unsafe_postgres_that_comes_late_ends_the_gateway_that_waited_for_it(
    streams_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gate, "LOOK_AGAIN_S", 0.1)
    server = EmbeddedPostgres(tmp_path)
    await asyncio.to_thread(server.start)
    await altered(server.url, "synchronous_commit = off")
    url = server.url
    await asyncio.to_thread(server.stop)

    async def run() -> None:
        async with running(settings(streams_url, url)) as gateway:
            while not gateway.services.joined:  # noqa: ASYNC110  # it does not tell
                await asyncio.sleep(0.01)
            await asyncio.to_thread(server.start)
            await gateway.stop.wait()

    try:
        with pytest.raises(ExceptionGroup) as refused:
            async with asyncio.timeout(60):
                await run()
        assert refused.group_contains(Unsafe, match=r"postgres\.synchronous_commit_off")
    finally:
        await asyncio.to_thread(server.stop, "immediate")


async def test_a_redis_that_still_reads_its_file_is_waited_for_and_readiness_says_so(
    tmp_path: Path, database_url: str
) -> None:
    """A restart answers LOADING until its append-only file is replayed: here for some two seconds."""
    server = EmbeddedValkey(tmp_path, maxmemory_bytes=MEMORY_BYTES)
    await asyncio.to_thread(server.start)
    try:
        given = settings(server.url, database_url)
        async with held(given) as gateway:
            await until_ready(gateway)
            with configured(server.url) as client:
                for number in range(4_096):
                    client.rpush("ballast", number)
            await asyncio.to_thread(server.stop)
            slow = EmbeddedValkey(tmp_path, maxmemory_bytes=MEMORY_BYTES, lines=("key-load-delay 500",))
            starting = asyncio.create_task(asyncio.to_thread(slow.start))
            said = await states_until_ready(gateway)
            await starting
            server = slow
        assert "Redis answers LOADING" in said
    finally:
        await asyncio.to_thread(server.stop)


async def states_until_ready(gateway: Running) -> set[str]:
    """Return what /readyz says of Redis from now on, until it is ready again."""
    said: set[str] = set()
    deadline = time.monotonic() + 60
    async with calling(gateway) as http:
        while time.monotonic() < deadline:
            reply = await http.get("/readyz")
            said.add(reply.json()["checks"]["redis"])
            if reply.status_code == 200 and len(said) > 1:
                return said
            assert (reply.status_code == 200) == (reply.json()["status"] == "ready")
            await asyncio.sleep(0.01)
    raise AssertionError(said)
