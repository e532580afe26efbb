"""The bench around what is measured: sink, publisher and ceiling as processes, and one function per run.

Every run begins with an empty tally and ends when everything is accounted for; CPU is what each part used in
between. That includes folding its messages into the statistics: the keeper does it every five seconds, so of
runs this short it would do it for some, and for others in the run of the bare loop that follows.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final

import asyncpg
from redis.asyncio import Redis

from broker.bench.arrivals import arrival
from broker.bench.ceiling import CeilingOrder, CeilingReport
from broker.bench.commits import Commits
from broker.bench.control import Child, Nothing
from broker.bench.figures import per_second
from broker.bench.leftovers import Picture, take_picture
from broker.bench.load import LoadOrder, LoadReport, now_ms
from broker.bench.payload import Fleet
from broker.bench.processes import read_table, roles_below, seconds_by_role
from broker.bench.report import Run
from broker.bench.sink import Ports, SinkOrder, SinkReport
from broker.bench.subject import Subject
from broker.store import statistics
from broker.store.pool import Pool, open_pool
from broker.streams.keys import DEPLOYMENT
from schema.limits import STATISTICS_MINUTES_KEPT_MS

REST_LOOK_S: Final = 0.5
REST_LOOKS_MAX: Final = 10
FOLD_MESSAGES_MAX: Final = 60_000
"""Messages folded into the statistics in one transaction, as by the keeper."""
FOLD_AGAIN_S: Final = 0.02


class Rig:
    """Children, connections and the broker they look at. Made by `open_rig`."""

    def __init__(self, subject: Subject, *, database: Any, pool: Pool, redis: Any, commits: Commits) -> None:
        self._subject = subject
        self._pool = pool
        self._database = database  # Any, both: neither driver types its replies
        self._redis = redis
        self._commits = commits
        self.ports: list[int] = []

    async def start(self, stack: AsyncExitStack, *, endpoints: int) -> None:
        """Start the children; the stack ends them."""
        self._sink = await _child(stack, "broker.bench.sink")
        self._load = await _child(stack, "broker.bench.load")
        self._ceiling = await _child(stack, "broker.bench.ceiling")
        self.ports = (await self._sink.ask(SinkOrder(do="listen", ports=endpoints), Ports)).ports

    async def prepare(self, fleet: Fleet, secrets: dict[str, str]) -> None:
        """Tell the children who is there. The ceiling makes its tables."""
        subject = self._subject
        await self._sink.ask(SinkOrder(do="secrets", secrets=secrets), Nothing)
        await self._load.ask(LoadOrder(do="open", redis_url=subject.redis_url, fleet=fleet), Nothing)
        order = CeilingOrder(
            do="open", redis_url=subject.redis_url, database_url=subject.database_url, ports=self.ports
        )
        await self._ceiling.ask(order, Nothing)

    async def publish_to(self, fleet: Fleet) -> None:
        """Send to these agents from now on."""
        await self._load.ask(LoadOrder(do="close"), Nothing)
        await self._load.ask(LoadOrder(do="open", redis_url=self._subject.redis_url, fleet=fleet), Nothing)

    async def finish(self) -> None:
        """Remove what the ceiling made."""
        await self._ceiling.ask(CeilingOrder(do="close"), Nothing)
        await self._load.ask(LoadOrder(do="close"), Nothing)

    async def picture(self) -> Picture:
        """Look at what lies in Redis."""
        return await take_picture(self._redis)

    async def picture_at_rest(self) -> Picture:
        """Look at what lies in Redis once it no longer changes: tidying up goes on after the last commit."""
        picture = await self.picture()
        for _ in range(REST_LOOKS_MAX):
            await asyncio.sleep(REST_LOOK_S)
            before, picture = picture, await self.picture()
            if picture.bytes == before.bytes:
                break
        return picture

    async def versions(self) -> dict[str, str]:
        """Return the versions of both servers."""
        server = await self._redis.info("server")
        name = server.get("server_name", "redis")
        return {
            name: server.get(f"{name}_version", server["redis_version"]),
            "postgres": await self._database.fetchval("SHOW server_version"),
        }

    async def run_product(self, count: int, *, rate: int = 0) -> Run:
        """Publish natively and wait until every message and attempt is in Postgres. Raises: Stuck."""
        before = await self._begin()
        load = await self._load.ask(LoadOrder(do="publish", count=count, rate=rate), LoadReport)
        await arrival(self._sink, count)
        committed_ns = await self._commits.wait(load.low_id, load.high_id, count)
        await self._fold()
        run = await self._end(count, before, load, committed_ns)
        run.rate = rate
        return run

    async def run_ceiling(self, count: int, *, rate: int = 0) -> Run:
        """Let the bare loop move as many messages of the same kind, at the same rate."""
        before = await self._begin()
        loop = asyncio.ensure_future(self._ceiling.ask(CeilingOrder(do="run", count=count), CeilingReport))
        load = await self._load.ask(LoadOrder(do="publish", count=count, rate=rate, way="bare"), LoadReport)
        run = await self._end(count, before, load, (await loop).committed_ns)
        run.rate = rate
        return run

    async def _fold(self) -> None:
        """Fold what was noted of this run into the statistics, unless the keeper has.

        Raises: StoreUnavailable.
        """
        since_ms = now_ms() - STATISTICS_MINUTES_KEPT_MS
        while True:
            folded = await statistics.fold(self._pool, messages=FOLD_MESSAGES_MAX, minutes_since_ms=since_ms)
            if folded is None:
                await asyncio.sleep(FOLD_AGAIN_S)  # The keeper is at it.
            elif not folded.deltas:
                return

    async def _begin(self) -> Mapping[str, float]:
        await self._sink.ask(SinkOrder(do="reset"), Nothing)
        return self._cpu_seconds()

    async def _end(self, count: int, before: Mapping[str, float], load: LoadReport, committed_ns: int) -> Run:
        after = self._cpu_seconds()
        sink = await self._sink.ask(SinkOrder(do="report"), SinkReport)
        used = {part: (after[part] - before.get(part, 0.0)) * 1e6 / count for part in after}
        return Run(
            messages=count,
            per_second=per_second(count, committed_ns - load.first_ns),
            published_per_second=per_second(count, load.last_ns - load.first_ns),
            cpu_us={part: us for part, us in used.items() if us > 0},
            duplicates=sink.duplicates,
            missing=count - sink.distinct,
            signatures_checked=sink.verified + sink.forged,
            signatures_wrong=sink.forged,
            latencies=sink.latencies,
            late_ms_max=load.late_ms_max,
        )

    def _cpu_seconds(self) -> dict[str, float]:
        table = read_table()
        roles = {pid: role for root in self._subject.roots for pid, role in roles_below(table, root).items()}
        roles |= {self._sink.pid: "sink", self._load.pid: "publisher", self._ceiling.pid: "ceiling loop"}
        return seconds_by_role(table, roles)


@asynccontextmanager
async def open_rig(subject: Subject, *, endpoints: int) -> AsyncIterator[Rig]:
    """Connect to the subject's stores and start the children; end all of it afterwards."""
    async with AsyncExitStack() as stack:
        redis = await stack.enter_async_context(Redis.from_url(subject.redis_url))
        database = await asyncpg.connect(subject.database_url)
        stack.push_async_callback(database.close)
        pool = await open_pool(subject.database_url, size=1, application_name="agent-broker bench")
        stack.push_async_callback(pool.aclose)
        shards = int(await redis.hget(DEPLOYMENT, "shards") or 0)
        rig = Rig(
            subject, database=database, pool=pool, redis=redis, commits=Commits(database, redis, shards)
        )
        await rig.start(stack, endpoints=endpoints)
        yield rig


async def _child(stack: AsyncExitStack, module: str) -> Child:
    child = await Child.start(module)
    stack.push_async_callback(child.stop)
    return child
