"""The pool: every wait ends, and every failure is one of ours."""

import asyncio
from contextlib import suppress
from pathlib import Path

import asyncpg
import pytest
from silent_postgres import silenceable

from broker.servers.postgres import EmbeddedPostgres
from broker.store import pool as pool_module
from broker.store.faults import PartitionMissing, mapped
from broker.store.pool import Pool, open_pool
from broker.telemetry import metrics
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


async def test_of_a_row_without_a_place_nothing_but_the_table_is_told(pool: Pool) -> None:
    """The server says the whole row, in a detail; what we say of it is logged."""
    async with pool.connection() as connection:
        await connection.execute("CREATE TEMPORARY TABLE days (said text CHECK (said <> 'canary'))")
        with pytest.raises(PartitionMissing) as found, mapped():
            await connection.execute("INSERT INTO days VALUES ('canary')")
    assert "days" in found.value.message
    assert "canary" not in found.value.message


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


LIMITS = {
    "statement_timeout": "10s",
    "lock_timeout": "3s",
    "idle_in_transaction_session_timeout": "15s",
    "TimeZone": "UTC",
    "jit": "off",
}


@pytest.mark.parametrize(("name", "value"), LIMITS.items())
async def test_the_server_knows_the_limits_of_every_session(any_pool: Pool, name: str, value: str) -> None:
    assert await any_pool.fetch_value(f"SHOW {name}") == value


async def test_the_server_ends_what_takes_too_long_before_our_patience_does() -> None:
    assert pool_module.STATEMENT_MS < pool_module.COMMAND_S * 1_000
    assert pool_module.LOCK_MS < pool_module.STATEMENT_MS


async def test_who_waits_for_a_lock_is_told(
    pool: Pool, monkeypatch: pytest.MonkeyPatch, database_url: str
) -> None:
    monkeypatch.setattr(pool_module, "LOCK_MS", 100)
    hasty = await open_pool(database_url, size=1, application_name="tests")
    async with pool.transaction() as holder:
        await holder.execute("LOCK TABLE agents")
        with pytest.raises(StoreUnavailable, match="55P03"):
            async with hasty.transaction() as other:
                await other.execute("LOCK TABLE agents")
    await hasty.aclose()


async def test_who_holds_a_lock_and_does_nothing_is_ended(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "IDLE_IN_TRANSACTION_MS", 500)
    pool = await open_pool(database_url, size=2, application_name="tests")
    with pytest.raises(StoreUnavailable):
        await hold_and_be_ended(pool)
    async with pool.transaction() as connection:
        await connection.execute("LOCK TABLE agents NOWAIT")
    await pool.aclose()


async def hold_and_be_ended(pool: Pool) -> None:
    async with pool.transaction() as idle:
        await idle.execute("LOCK TABLE agents")
        async with asyncio.timeout(10):
            while not idle.is_closed():  # noqa: ASYNC110  # the server ends it, and nobody tells us
                await asyncio.sleep(0.02)


async def test_a_transaction_that_fails_leaves_nothing_and_the_connection_serves_on(pool: Pool) -> None:
    async def fail() -> None:
        async with pool.transaction() as connection:
            await connection.execute("CREATE TABLE left_over ()")
            await connection.execute("SELECT 1 / 0")

    with pytest.raises(DataFault):
        await fail()
    assert await pool.fetch_value("SELECT to_regclass('left_over') IS NULL")


async def test_waiting_for_a_free_connection_ends_and_the_gauge_shows_who_has_and_who_wants_one(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "ACQUIRE_S", 0.3)
    in_use, wanted = (metrics.POSTGRES_CONNECTIONS.child(state=state) for state in ("in_use", "wanted"))
    before = in_use.now(), wanted.now()
    pool = await open_pool(database_url, size=1, application_name="tests")
    async with pool.connection():
        asking = asyncio.create_task(pool.fetch_value("SELECT 1"))
        await asyncio.sleep(0)
        assert (in_use.now(), wanted.now()) == (before[0] + 1, before[1] + 1)
        with pytest.raises(StoreUnavailable):
            await asking
    assert (in_use.now(), wanted.now()) == before
    await pool.aclose()


async def until_up(pool: Pool) -> None:
    """Wait until the store answers in time: a third of a second, which a machine that stands still takes."""
    async with asyncio.timeout(20):
        while not await pool.is_up():
            pass


async def test_a_server_that_says_nothing_is_given_up_and_serves_again_when_it_speaks(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "COMMAND_S", 0.3)
    monkeypatch.setattr(pool_module, "ACQUIRE_S", 0.3)
    async with silenceable(database_url) as proxy:
        pool = await open_pool(proxy.url, size=1, application_name="tests")
        await until_up(pool)
        proxy.fall_silent()
        async with asyncio.timeout(10):
            for _ in range(2):  # First on the connection there is, then on one that is never greeted.
                with pytest.raises(StoreUnavailable):
                    await pool.fetch_value("SELECT 1")
        proxy.speak()
        await until_up(pool)
        await pool.aclose()


@pytest.mark.parametrize("in_transaction", [False, True], ids=["statement", "transaction"])
async def test_who_is_cancelled_while_the_server_says_nothing_ends_and_does_not_go_on(
    database_url: str, monkeypatch: pytest.MonkeyPatch, in_transaction: bool
) -> None:
    """A job that takes a failure for a reason to try again must not take its own end for one."""
    monkeypatch.setattr(pool_module, "COMMAND_S", 1.0)
    monkeypatch.setattr(pool_module, "ACQUIRE_S", 0.5)
    async with silenceable(database_url) as proxy:
        pool = await open_pool(proxy.url, size=1, application_name="tests")
        asked = asyncio.Event()

        async def job() -> None:
            while True:
                with suppress(StoreUnavailable):
                    if in_transaction:
                        async with pool.transaction() as connection:
                            proxy.fall_silent()
                            asked.set()
                            await connection.execute("SELECT 1")
                    else:
                        async with pool.connection() as connection:
                            proxy.fall_silent()
                            asked.set()
                            await connection.execute("SELECT 1")

        working = asyncio.create_task(job())
        await asked.wait()
        await asyncio.sleep(0.05)  # A turn in which the statement is sent; sooner is as good.
        working.cancel()
        async with asyncio.timeout(10):
            await asyncio.wait((working,))
        assert working.cancelled()
        proxy.speak()
        await until_up(pool)
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
