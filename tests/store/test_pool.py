"""The pool: every wait ends, and every failure is one of ours."""

import asyncio
from pathlib import Path

import asyncpg
import pytest

from broker.servers.postgres import EmbeddedPostgres
from broker.store.pool import Pool, open_pool
from schema.errors import DataFault, StoreUnavailable


async def test_a_pool_opens_while_postgres_is_away_and_says_so_when_used() -> None:
    pool = await open_pool("postgresql://nobody@127.0.0.1:1/none", application_name="tests")
    with pytest.raises(StoreUnavailable):
        await pool.fetch_value("SELECT 1")
    assert not await pool.is_up()
    await pool.aclose()


async def test_a_url_that_makes_no_sense_is_no_fault_of_a_row() -> None:
    pool = await open_pool("mysql://host/db", application_name="tests")
    with pytest.raises(StoreUnavailable):
        await pool.fetch_value("SELECT 1")
    await pool.aclose()


@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("SELECT '{'::jsonb", DataFault),
        ("SELECT 'x'::uuid", DataFault),
        ("SELECT 1 / 0", DataFault),
        ("INSERT INTO agent_keys (id, agent_id, scopes, hash, prefix, created_at)"
         " VALUES ('k', gen_random_uuid(), '{}', '', '', now())", DataFault),
        ("SELECT * FROM no_such_table", StoreUnavailable),
        ("SET LOCAL statement_timeout = 20; SELECT pg_sleep(5)", StoreUnavailable),
        ("SELECT pg_terminate_backend(pg_backend_pid())", StoreUnavailable),
    ],
)  # fmt: skip
async def test_errors_are_mapped_by_what_they_are(any_pool: Pool, statement: str, error: type) -> None:
    with pytest.raises(error):
        await any_pool.execute(statement)
    assert await any_pool.is_up()


async def test_an_argument_the_driver_refuses_is_a_fault_of_the_data(pool: Pool) -> None:
    with pytest.raises(DataFault):
        await pool.fetch_value("SELECT $1::int", "x")
    with pytest.raises(DataFault):
        await pool.fetch_value("SELECT $1::text", "\ud800")


async def test_a_mistake_of_ours_is_not_dressed_up(pool: Pool) -> None:
    with pytest.raises(ZeroDivisionError):
        async with pool.connection():
            _ = 1 // 0
    with pytest.raises(asyncpg.PostgresSyntaxError):
        await pool.execute("SELEC 1")


async def test_sessions_carry_the_limits(pool: Pool) -> None:
    for name in ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"):
        assert await pool.fetch_value(f"SHOW {name}") != "0"


async def test_a_transaction_that_fails_leaves_nothing_and_the_connection_serves_on(pool: Pool) -> None:
    async def fail() -> None:
        async with pool.transaction() as connection:
            await connection.execute("CREATE TABLE left_over ()")
            await connection.execute("SELECT 1 / 0")

    with pytest.raises(DataFault):
        await fail()
    assert await pool.fetch_value("SELECT to_regclass('left_over') IS NULL")


async def test_waiting_for_a_free_connection_ends(database_url: str) -> None:
    pool = await open_pool(database_url, size=1, application_name="tests")
    async with pool.connection():
        with pytest.raises(StoreUnavailable):
            await pool.fetch_value("SELECT 1")
    await pool.aclose()


async def test_a_pool_serves_again_after_the_server_was_restarted(tmp_path: Path) -> None:
    server = EmbeddedPostgres(tmp_path)
    await asyncio.to_thread(server.start)
    pool = await open_pool(server.url, application_name="tests")
    try:
        assert await pool.is_up()
        await asyncio.to_thread(server.stop, "immediate")
        with pytest.raises(StoreUnavailable):
            await pool.fetch_value("SELECT 1")
        await asyncio.to_thread(server.start)
        assert await pool.is_up()
    finally:
        await pool.aclose()
        await asyncio.to_thread(server.stop, "immediate")
