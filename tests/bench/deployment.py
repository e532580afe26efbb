"""A deployment whose roles are started one by one, on one Valkey or on a cluster of three: for benchmarks
that add workers, kill them, and separate trades."""

import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from os import kill
from pathlib import Path
from secrets import token_hex
from typing import Any, Final

import asyncpg
from cluster import Cluster
from msgspec import Struct

from bench.kit.broker import Broker, another, another_gateway
from broker.bench.commits import Commits
from broker.bench.control import Child, Nothing
from broker.bench.figures import per_second
from broker.bench.fleet import register
from broker.bench.load import LoadOrder, LoadReport
from broker.bench.sink import Ports, SinkOrder, SinkReport
from broker.client.http import AgentClient
from broker.servers.postgres import EmbeddedPostgres
from broker.servers.valkey import EmbeddedValkey
from broker.store.migrate import migrate
from broker.streams.connection import Connection, open_connection
from broker.streams.keys import Keys

MEMORY_BYTES: Final = 1024**3


class Stores(Struct):
    """Servers of a deployment: its URLs, and the pids of its Redis nodes and of PostgreSQL by name."""

    redis_url: str
    database_url: str
    pids: dict[int, str]


@contextmanager
def stores(kind: str, *, shards: int) -> Iterator[Stores]:
    """Run durable servers on empty directories. `kind`: `single`, or `cluster`, shards spread evenly."""
    home = Path(tempfile.mkdtemp(prefix="agent-broker-bench-"))
    postgres = EmbeddedPostgres(home / "postgres")
    cluster = Cluster(home / "cluster", maxmemory_bytes=MEMORY_BYTES) if kind == "cluster" else None
    valkey = EmbeddedValkey(home / "valkey", maxmemory_bytes=MEMORY_BYTES)
    redis = cluster or valkey
    try:
        postgres.start()
        redis.start()
        if cluster is not None:
            cluster.spread(shards)
        nodes = cluster.servers if cluster is not None else [valkey]
        pids = {server.pid: f"valkey {number + 1}" for number, server in enumerate(nodes)}
        yield Stores(redis.url, postgres.url, {**pids, postgres.pid: "postgres"})
    finally:
        redis.stop()
        postgres.stop("immediate")
        shutil.rmtree(home, ignore_errors=True)


class Deployment:
    """The roles that run, a fleet of agents, a sink, a publisher. Made by `deployed`."""

    def __init__(self, broker: Broker, redis: Connection, database: Any, shards: int) -> None:
        self.broker = broker
        self.redis = redis
        self.shards = shards
        self.labels: dict[int, str] = {}
        self._commits = _EmptyLedgers(database, redis, shards)
        self._workers: dict[str, tuple[AsyncExitStack, int]] = {}

    async def open(self, stack: AsyncExitStack, *, agents: int, ports: int) -> None:
        """Start sink and publisher and register the agents."""
        self._sink, self._load = [
            await self._child(stack, f"broker.bench.{name}") for name in ("sink", "load")
        ]
        self.labels |= {self._sink.pid: "sink", self._load.pid: "publisher"}
        found = (await self._sink.ask(SinkOrder(do="listen", ports=ports), Ports)).ports
        async with AgentClient(self.broker.api_url, self.broker.api_key) as client:
            registered = await register(client, agents=agents, ports=found, tag=token_hex(3))
        await self._sink.ask(SinkOrder(do="secrets", secrets=registered.secrets), Nothing)
        order = LoadOrder(do="open", redis_url=self.broker.redis_url, fleet=registered.fleet)
        await self._load.ask(order, Nothing)

    async def run(self, count: int) -> tuple[float, int]:
        """Publish flat out and wait until every row is committed; return messages/s and repeated ones.

        Raises: Stuck.
        """
        await self._sink.ask(SinkOrder(do="reset"), Nothing)
        load = await self._load.ask(LoadOrder(do="publish", count=count), LoadReport)
        committed_ns = await self._commits.wait(load.low_id, load.high_id, count)
        sink = await self._sink.ask(SinkOrder(do="report"), SinkReport)
        return per_second(count, committed_ns - load.first_ns), sink.duplicates

    async def start_worker(self, name: str, *words: str) -> None:
        """Start a worker process."""
        stack = AsyncExitStack()
        pid = await stack.enter_async_context(another(self.broker, "worker", *words, name=name))
        self._workers[name] = stack, pid
        self.labels[pid] = name

    async def stop_worker(self, name: str) -> None:
        """Stop a worker in order, or collect one that was killed."""
        stack, pid = self._workers.pop(name)
        await stack.aclose()
        self.labels.pop(pid, None)

    def kill_worker(self, name: str) -> None:
        """End a worker by kill -9."""
        kill(self._workers[name][1], signal.SIGKILL)

    async def stop_workers(self) -> None:
        for name in tuple(self._workers):
            await self.stop_worker(name)

    async def owners(self, trade: str) -> list[str]:
        """Return who holds each shard for a trade; '' where nobody does."""
        values = await self.redis.send_many([("GET", Keys(s).owner(trade)) for s in range(self.shards)])
        return ["" if value is None else value.decode().partition(":")[2] for value in values]

    async def _child(self, stack: AsyncExitStack, module: str) -> Child:
        child = await Child.start(module)
        stack.push_async_callback(child.stop)
        return child


class _EmptyLedgers(Commits):
    """Commits whose ledgers may lie on several nodes."""

    async def _ledgers_are_empty(self) -> bool:
        return not any(await self._redis.send_many([("XLEN", ledger) for ledger in self._ledgers]))


@asynccontextmanager
async def deployed(
    servers: Stores, *, shards: int, lease_ms: int, agents: int, ports: int
) -> AsyncIterator[Deployment]:
    """Run gateway, recorder and keeper; the workers are the caller's, and ended here at the latest."""
    await migrate(servers.database_url)
    broker = Broker(
        api_url="",
        api_key="operator-key-of-a-benchmark",
        redis_url=servers.redis_url,
        database_url=servers.database_url,
        roots=[],
        api_urls=[],
        settings={"KEY_PEPPER": token_hex(32), "SHARDS": str(shards), "LEASE_MS": str(lease_ms)},
    )
    async with AsyncExitStack() as stack:
        for role in ("recorder", "keeper"):
            pid = await stack.enter_async_context(another(broker, role, name=role))
            servers.pids[pid] = role
        pid = await stack.enter_async_context(another_gateway(broker))
        broker.api_url = broker.api_urls[0]
        redis = await stack.enter_async_context(await open_connection(broker.redis_url, name="bench"))
        database = await asyncpg.connect(broker.database_url)
        stack.push_async_callback(database.close)
        deployment = Deployment(broker, redis, database, shards)
        deployment.labels |= {**servers.pids, pid: "gateway"}
        stack.push_async_callback(deployment.stop_workers)
        await deployment.open(stack, agents=agents, ports=ports)
        yield deployment
