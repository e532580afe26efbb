"""Connections to Postgres, with a deadline on everything.

Opening a pool does not connect: a process starts, and works as far as it can, while Postgres is away.
asyncpg waits for ever by default, so every wait is bounded here: for a free connection, for connecting, for
an answer; and the server bounds the rest itself, a little earlier, so that its word comes before our
patience ends.
"""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias

import asyncpg

from broker.core.sealing import Sealer
from broker.store.faults import mapped
from broker.telemetry import metrics
from schema.errors import BrokerError, StoreUnavailable

# In quotes, because the driver's classes are generic for type checkers only.
Connection: TypeAlias = "asyncpg.pool.PoolConnectionProxy[asyncpg.Record]"

ACQUIRE_S: Final = 2.0
CONNECT_S: Final = 3.0
COMMAND_S: Final = 12.0
CLOSE_S: Final = 5.0
STATEMENT_MS: Final = 10_000
LOCK_MS: Final = 3_000
IDLE_IN_TRANSACTION_MS: Final = 15_000

_IN_USE: Final = metrics.POSTGRES_CONNECTIONS.child(state="in_use")
_WANTED: Final = metrics.POSTGRES_CONNECTIONS.child(state="wanted")


class Pool:
    """A pool of connections whose errors are ours. Make one with `open_pool`.

    `sealer`: what secrets in the rows are sealed and opened with.
    """

    def __init__(self, pool: "asyncpg.Pool[asyncpg.Record]", sealer: Sealer) -> None:
        self.sealer = sealer
        self._pool = pool

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Borrow a connection. Raises: StoreUnavailable, DataFault (also from what is done inside).

        A cancellation stays one: what a silent server makes of rolling back, or of giving the connection
        back, must not take its place, or a job that goes on after failures would go on after its end.
        """
        task = asyncio.current_task()
        cancelled = task.cancelling() if task is not None else 0
        try:
            with mapped():
                async with self._borrowed() as connection:
                    yield connection
        except Exception as error:
            if task is not None and task.cancelling() > cancelled:
                raise asyncio.CancelledError from error
            raise

    @asynccontextmanager
    async def _borrowed(self) -> AsyncIterator[Connection]:
        _WANTED.inc()
        try:
            connection = await self._pool.acquire(timeout=ACQUIRE_S)
        finally:
            _WANTED.inc(-1)
        _IN_USE.inc()
        try:
            yield connection
        finally:
            _IN_USE.inc(-1)
            await self._pool.release(connection)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[Connection]:
        """Borrow a connection for one transaction. Raises: as `connection`."""
        async with self.connection() as connection, connection.transaction():
            yield connection

    # The driver takes and gives any Python value its codecs know.
    async def fetch(self, statement: str, *args: Any) -> list[asyncpg.Record]:
        """Run one statement; return its rows."""
        async with self.connection() as connection:
            return await connection.fetch(statement, *args)

    async def fetch_row(self, statement: str, *args: Any) -> asyncpg.Record | None:
        """Run one statement; return its first row."""
        async with self.connection() as connection:
            return await connection.fetchrow(statement, *args)

    async def fetch_value(self, statement: str, *args: Any) -> Any:
        """Run one statement; return the first column of its first row."""
        async with self.connection() as connection:
            return await connection.fetchval(statement, *args)

    async def execute(self, statement: str, *args: Any) -> None:
        """Run one statement for its effect."""
        async with self.connection() as connection:
            await connection.execute(statement, *args)

    async def is_up(self) -> bool:
        """Tell whether the store answers."""
        try:
            return await self.fetch_value("SELECT true") is True
        except BrokerError:
            return False

    async def aclose(self) -> None:
        """Close every connection; those still busy after CLOSE_S are cut off."""
        try:
            with mapped():
                async with asyncio.timeout(CLOSE_S):
                    await self._pool.close()
        except StoreUnavailable:
            self._pool.terminate()


async def open_pool(
    database_url: str, *, size: int = 4, application_name: str, secrets_keys: Sequence[str] = ()
) -> Pool:
    """Return a pool of at most `size` connections, none of them open yet. `secrets_keys`: what secrets in
    rows are sealed with (the first) and opened with (any); a process that needs no secret has none."""
    with mapped():
        pool = await asyncpg.create_pool(
            database_url,
            min_size=0,
            max_size=size,
            timeout=CONNECT_S,
            command_timeout=COMMAND_S,
            # A plan over a month of partitions takes 5-10 ms; the driver would forget it after 5 minutes.
            max_cached_statement_lifetime=0,
            # Nothing here changes the state of a session, so there is none to reset: one round trip less
            # each time a connection is given back. (An open transaction is rolled back all the same.)
            reset=_keep,
            server_settings=session_settings(application_name),
        )
    return Pool(pool, Sealer(secrets_keys))


def session_settings(application_name: str) -> dict[str, str]:
    """Return the settings every session of ours begins with."""
    return {
        "application_name": application_name,
        "statement_timeout": str(STATEMENT_MS),
        "lock_timeout": str(LOCK_MS),
        "idle_in_transaction_session_timeout": str(IDLE_IN_TRANSACTION_MS),
        "timezone": "UTC",
        # Compiling a statement takes longer than any of ours runs.
        "jit": "off",
    }


async def _keep(connection: object) -> None:
    """Leave a returned connection as it is."""
