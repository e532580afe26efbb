"""Bring a database up to date: numbered `.sql` files, each run once, each in a transaction of its own.

A file records itself in `schema_migrations`, so that `psql --single-transaction -f` does all that `migrate`
does, except for the checksum, which is filled in by the next `migrate`. An advisory lock makes two that run
at once take turns. There is no way back down: a release that cannot live with the next schema is not
released.
"""

from hashlib import sha256
from importlib.resources import files
from typing import Final

import asyncpg
from msgspec import Struct

from broker.store.faults import mapped
from broker.store.pool import CONNECT_S, LOCK_MS, Pool, session_settings
from broker.store.statements import load
from schema.errors import StoreUnavailable

LOCK_ID: Final = 0x61_62_6D_69_67
"""Of the advisory lock: "abmig"."""
STATEMENT_S: Final = 600.0
"""A migration of a large database takes its time; everything else of ours is far shorter."""

_APPLIED: Final = load("migrations_applied")
_TABLE: Final = load("migrations_table")
_CHECKSUM: Final = load("migrations_checksum")


class Migration(Struct, frozen=True):
    """One file: `0001_core.sql` is version 1, `core`."""

    version: int
    name: str
    text: str

    @property
    def checksum(self) -> str:
        return sha256(self.text.encode()).hexdigest()


def migrations() -> list[Migration]:
    """Return every migration of this release, in order."""
    found = []
    for path in (files("schema") / "migrations").iterdir():
        if path.name.endswith(".sql"):
            number, _, name = path.name.removesuffix(".sql").partition("_")
            found.append(Migration(int(number), name, path.read_text()))
    return sorted(found, key=lambda migration: migration.version)


async def migrate(database_url: str) -> list[str]:
    """Apply what is missing; return the names of what was applied.

    Raises: StoreUnavailable, also where an applied file has been changed since.
    """
    with mapped():
        connection = await asyncpg.connect(
            database_url,
            timeout=CONNECT_S,
            command_timeout=STATEMENT_S,
            server_settings=session_settings("agent-broker migrate")
            | {"statement_timeout": str(int(STATEMENT_S * 1000))},
        )
        try:
            return await _migrate(connection)
        finally:
            await connection.close(timeout=CONNECT_S)


async def pending(pool: Pool) -> list[str]:
    """Return the names of migrations that this database has not seen. Raises: StoreUnavailable."""
    async with pool.connection() as connection:
        applied = await _applied(connection)
    return [migration.name for migration in migrations() if migration.version not in applied]


async def _migrate(connection: "asyncpg.Connection[asyncpg.Record]") -> list[str]:
    # Waiting for another's migration may take longer than any lock of ours should.
    await connection.execute("SET lock_timeout = 0")
    await connection.execute("SELECT pg_advisory_lock($1)", LOCK_ID)
    await connection.execute(f"SET lock_timeout = {LOCK_MS}")
    applied = await _applied(connection)
    done = []
    for migration in migrations():
        if migration.version not in applied:
            async with connection.transaction():
                await connection.execute(migration.text)
                await connection.execute(_CHECKSUM, migration.version, migration.checksum)
            done.append(migration.name)
        elif applied[migration.version] is None:
            await connection.execute(_CHECKSUM, migration.version, migration.checksum)
        elif applied[migration.version] != migration.checksum:
            raise StoreUnavailable(f"migration {migration.version} is not the file this database has seen")
    return done


async def _applied(
    connection: "asyncpg.Connection[asyncpg.Record] | asyncpg.pool.PoolConnectionProxy[asyncpg.Record]",
) -> dict[int, str | None]:
    """Return version to checksum of what has been applied."""
    if not await connection.fetchval(_TABLE):
        return {}
    return {row["version"]: row["checksum"] for row in await connection.fetch(_APPLIED)}
