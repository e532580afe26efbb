"""Migrations: once each, by us or by psql, and two at once take turns."""

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator
from importlib.resources import as_file, files

import asyncpg
import pytest

from broker.store import migrate
from broker.store.pool import open_pool
from schema.errors import StoreUnavailable

NAMES = [migration.name for migration in migrate.migrations()]


@pytest.fixture
async def empty_url(any_postgres_url: str) -> AsyncIterator[str]:
    """A database with nothing in it."""
    server = await asyncpg.connect(any_postgres_url)
    await server.execute("DROP DATABASE IF EXISTS empty_of_migrations WITH (FORCE)")
    await server.execute("CREATE DATABASE empty_of_migrations")
    yield any_postgres_url.replace("/agent_broker?", "/empty_of_migrations?")
    await server.execute("DROP DATABASE empty_of_migrations WITH (FORCE)")
    await server.close()


async def pending(url: str) -> list[str]:
    pool = await open_pool(url, application_name="tests")
    try:
        return await migrate.pending(pool)
    finally:
        await pool.aclose()


async def test_every_migration_is_applied_once(empty_url: str) -> None:
    assert await pending(empty_url) == NAMES
    assert await migrate.migrate(empty_url) == NAMES
    assert await migrate.migrate(empty_url) == []
    assert await pending(empty_url) == []


async def test_two_at_once_take_turns(empty_url: str) -> None:
    applied = await asyncio.gather(*(migrate.migrate(empty_url) for _ in range(3)))
    assert sorted(applied, key=len) == [[], [], NAMES]


@pytest.mark.skipif(shutil.which("psql") is None, reason="no psql installed")
async def test_psql_applies_the_same_files(empty_url: str) -> None:
    for path in sorted((files("schema") / "migrations").iterdir(), key=lambda path: path.name):
        with as_file(path) as file:
            command = ["psql", empty_url, "--single-transaction", "-v", "ON_ERROR_STOP=1", "-qf", str(file)]
            await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    assert await migrate.migrate(empty_url) == []
    assert await pending(empty_url) == []


async def test_a_file_changed_after_it_was_applied_is_noticed(empty_url: str) -> None:
    await migrate.migrate(empty_url)
    connection = await asyncpg.connect(empty_url)
    await connection.execute("UPDATE schema_migrations SET checksum = 'another' WHERE version = 1")
    await connection.close()
    with pytest.raises(StoreUnavailable, match="not the file"):
        await migrate.migrate(empty_url)
