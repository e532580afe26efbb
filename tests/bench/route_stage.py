"""The stage of the routing benchmark: stores and nothing else, messages that wait, processes that only route.

Recipients pull, so routing is all that happens to a message: no push, no settling. Nobody reads the ledger.
"""

import asyncio
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from secrets import token_hex
from time import monotonic, time_ns
from typing import Any, Final

from msgspec import Struct, field
from redis.asyncio import Redis

from bench import registering
from bench.bare_router import STREAM
from bench.kit.broker import Broker, another
from broker.bench.commits import Stuck
from broker.bench.payload import Fleet, compose
from broker.servers.postgres import EmbeddedPostgres
from broker.servers.valkey import EmbeddedValkey
from broker.store.migrate import migrate
from broker.store.pool import Pool, open_pool
from broker.streams.connection import Connection, open_connection
from broker.streams.deployment import agree_on_shards
from broker.streams.ingress import Publisher
from broker.streams.keys import Keys
from schema.agent import Agent
from schema.codec import encode
from schema.limits import PUBLISH_MESSAGES_PER_ENTRY_MAX
from schema.message import LANES

SHARDS: Final = 2
SKILLS: Final = 50
VALKEY_MB: Final = 8_192
SILENT_AFTER_MS: Final = 86_400_000
"""Nobody falls silent while this runs."""
LOOK_S: Final = 0.02
PATIENCE_S: Final = 60.0
DELETED_AT_ONCE: Final = 5_000
CALLS: Final = 8


class Stage(Struct):
    """The stores and who is registered. `broker` is what processes need to be started beside them."""

    broker: Broker
    pool: Pool
    connection: Connection
    publisher: Publisher
    redis: Any  # the driver does not type its replies
    agents: list[Agent] = field(default_factory=list)
    routers: int = 0

    async def register(self, count: int) -> None:
        """Register agents, until so many are there: each pulls and has a skill of its group."""
        have = len(self.agents)
        made = registering.make_agents(
            count - have,
            name=f"routed-{have}",
            endpoint=lambda _: None,
            capabilities=lambda number: ("routed", f"skill-{number % SKILLS}"),
            now_ms=time_ns() // 1_000_000,
        )
        await registering.register_rows(self.pool, self.connection, made, pepper=token_hex(16))
        self.agents += made

    def fleet(self, spread: int) -> Fleet:
        """Return the first agents as who is sent to by name."""
        skills = [["routed", f"skill-{number}"] for number in range(SKILLS)]
        return Fleet(agents=[agent.id for agent in self.agents[:spread]], skills=skills)

    async def fill(self, count: int, *, spread: int) -> None:
        """Put messages into the ingress lanes: half of them named, half by capability."""
        fleet = self.fleet(spread)
        starts = iter(range(0, count, PUBLISH_MESSAGES_PER_ENTRY_MAX))

        async def caller() -> None:
            for start in starts:
                numbers = range(start, min(start + PUBLISH_MESSAGES_PER_ENTRY_MAX, count))
                await self.publisher.publish_many([compose(number, 0, fleet) for number in numbers])

        async with asyncio.TaskGroup() as tasks:
            for _ in range(CALLS):
                tasks.create_task(caller())

    async def fill_bare(self, count: int, *, spread: int) -> None:
        """Put as many of the same messages into the stream of the bare loop."""
        fleet = self.fleet(spread)
        for start in range(0, count, PUBLISH_MESSAGES_PER_ENTRY_MAX):
            numbers = range(start, min(start + PUBLISH_MESSAGES_PER_ENTRY_MAX, count))
            fields = [part for n in numbers for part in ("m", encode(compose(n, 0, fleet)))]
            await self.connection.send("XADD", STREAM, "*", *fields)

    async def waiting(self) -> int:
        """Return how many ingress entries wait."""
        commands = [("XLEN", Keys(s).ingress[lane]) for s in range(SHARDS) for lane in LANES]
        return sum(await self.connection.send_many(commands))

    async def routed(self) -> int:
        """Return how many messages lie in mailboxes."""
        keys = [key async for key in self.redis.scan_iter("ab:{*}:inbox:*", count=10_000)]
        found = 0
        for start in range(0, len(keys), DELETED_AT_ONCE):
            commands = [("XLEN", key) for key in keys[start : start + DELETED_AT_ONCE]]
            found += sum(await self.connection.send_many(commands))
        return found

    async def clear(self) -> None:
        """Remove what was routed and what was told of it."""
        patterns = ("ab:{*}:inbox:*", "ab:{*}:ledger", "ab:{*}:seen:*", "ab:{*}:expiry", "bench:*")
        for pattern in patterns:
            keys = [key async for key in self.redis.scan_iter(pattern, count=10_000)]
            for start in range(0, len(keys), DELETED_AT_ONCE):
                await self.redis.unlink(*keys[start : start + DELETED_AT_ONCE])

    async def begun(self) -> float:
        """Wait until routing has begun; return the share of the ingress that is left. Raises: Stuck."""
        full = left = await self.waiting()
        until = monotonic() + PATIENCE_S
        while left == full:
            if monotonic() > until:
                raise Stuck(f"nothing is routed of {full} ingress entries")
            await asyncio.sleep(LOOK_S)
            left = await self.waiting()
        return left / full

    async def emptied(self) -> None:
        """Wait until the whole ingress is routed. Raises: Stuck."""
        left = await self.waiting()
        progress = monotonic()
        while left:
            await asyncio.sleep(LOOK_S)
            before, left = left, await self.waiting()
            if left != before:
                progress = monotonic()
            elif monotonic() - progress > PATIENCE_S:
                raise Stuck(f"{left} ingress entries are not routed")

    @asynccontextmanager
    async def router(self) -> AsyncIterator[int]:
        """Run a process that only routes; yield its pid."""
        self.routers += 1
        async with another(self.broker, "worker", "--trades", "route", name=f"router-{self.routers}") as pid:
            yield pid


@asynccontextmanager
async def open_stage() -> AsyncIterator[Stage]:
    """Start empty, durable stores; end them and remove their data."""
    async with AsyncExitStack() as stack:
        home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agent-broker-routing-")))
        valkey = EmbeddedValkey(home / "valkey", maxmemory_bytes=VALKEY_MB * 2**20)
        postgres = EmbeddedPostgres(home / "postgres")
        for server in (valkey, postgres):
            stack.push_async_callback(asyncio.to_thread, server.stop)
            await asyncio.to_thread(server.start)
        await migrate(postgres.url)
        connection = await stack.enter_async_context(await open_connection(valkey.unix_url, name="bench"))
        await agree_on_shards(connection, SHARDS)
        pool = await open_pool(postgres.url, application_name="bench")
        stack.push_async_callback(pool.aclose)
        publisher = Publisher(valkey.unix_url, shards=SHARDS)
        stack.push_async_callback(publisher.close)
        redis = await stack.enter_async_context(Redis.from_url(valkey.url))
        broker = Broker(
            api_url="",
            api_key="",
            redis_url=valkey.unix_url,
            database_url=postgres.url,
            roots=[valkey.pid, postgres.pid],
            api_urls=[],
            settings={
                "KEY_PEPPER": token_hex(32),
                "SILENT_AFTER_MS": str(SILENT_AFTER_MS),
                "SHARDS": str(SHARDS),
            },
        )
        yield Stage(broker=broker, pool=pool, connection=connection, publisher=publisher, redis=redis)


def owners_of(values: Sequence[bytes | None]) -> set[str]:
    """Return the processes that hold leases, from their values (`token:process`)."""
    return {value.decode().partition(":")[2] for value in values if value}
