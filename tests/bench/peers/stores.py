"""The databases of a peer: of its own and empty, on the servers of the broker it is measured beside."""

from importlib.resources import files
from typing import Any, Final
from urllib.parse import urlsplit, urlunsplit

import asyncpg
from msgspec import Struct
from redis.asyncio import Redis

from broker.bench.fleet import path_of
from broker.bench.subject import Subject

DATABASE: Final = "bench_peer"
REDIS_DATABASE: Final = 1
TABLES: Final = (files("bench.peers") / "tables.sql").read_text()
COUNT: Final = (files("bench.peers") / "count.sql").read_text()


class Counted(Struct, frozen=True):
    """Rows of a run: messages, those delivered, attempts, those that failed."""

    messages: int
    delivered: int
    attempts: int
    failed: int


class Stores:
    """One peer's Redis database and Postgres database."""

    def __init__(self, subject: Subject) -> None:
        self._admin_url = subject.database_url
        self.redis_url = urlunsplit(urlsplit(subject.redis_url)._replace(path=f"/{REDIS_DATABASE}"))
        self.database_url = urlunsplit(urlsplit(subject.database_url)._replace(path=f"/{DATABASE}"))
        self._database: Any = None  # asyncpg has no types

    async def renew(self, agents: dict[str, str]) -> None:
        """Empty both and put the agents (id to endpoint) in."""
        await self.drop()
        await self._administer(f"CREATE DATABASE {DATABASE}")
        self._database = await asyncpg.connect(self.database_url)
        await self._database.execute(TABLES)
        await self._database.copy_records_to_table("agents", records=list(agents.items()))

    async def forget(self) -> None:
        """Empty the tables of what was measured."""
        await self._database.execute("TRUNCATE messages, attempts")

    async def count(self) -> Counted:
        """Count the rows."""
        row = await self._database.fetchrow(COUNT)
        return Counted(**dict(row))

    async def drop(self) -> None:
        """Remove both."""
        if self._database is not None:
            await self._database.close()
            self._database = None
        await self._administer(f"DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)")
        async with Redis.from_url(self.redis_url) as redis:
            await redis.flushdb()

    async def _administer(self, statement: str) -> None:
        database = await asyncpg.connect(self._admin_url)
        try:
            await database.execute(statement)
        finally:
            await database.close()


def agents_on(ports: list[int], ids: list[str]) -> dict[str, str]:
    """Return an endpoint for every agent, spread over the ports as the broker's agents are."""
    return {agent: f"http://127.0.0.1:{ports[n % len(ports)]}{path_of(n)}" for n, agent in enumerate(ids)}
