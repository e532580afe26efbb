"""One peer's turn: empty databases, its processes, and runs that end with the last row committed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from time import monotonic_ns
from typing import Final

from msgspec import Struct

from bench.kit.broker import CpuMeter
from bench.peers.catalogue import Crew, Setting
from bench.peers.stores import Counted, Stores, agents_on
from bench.peers.team import Agents, Publish, Published, Team, background, obedient
from broker.bench.arrivals import arrival
from broker.bench.commits import PATIENCE_S, Stuck
from broker.bench.control import Child, Nothing
from broker.bench.figures import per_second
from broker.bench.report import Run
from broker.bench.sink import Ports, SinkOrder, SinkReport
from broker.bench.subject import Subject

COUNT_LOOK_S: Final = 0.02
SERVERS: Final = ("valkey", "postgres")
WORKER, PUBLISHER, SINK, IDLE = "worker", "publisher", "sink", "the broker, idle"


class Outcome(Struct):
    """A run and the rows it left."""

    run: Run
    rows: Counted


class Field:
    """What all peers share: the servers, the receivers, who is published to."""

    def __init__(self, subject: Subject, sink: Child, agents: dict[str, str], log: Path) -> None:
        self._subject = subject
        self._sink = sink
        self._agents = agents
        self._stores = Stores(subject)
        self.log = log

    @asynccontextmanager
    async def turn(self, crew: Crew, setting: Setting) -> AsyncIterator["Turn"]:
        """Give a peer empty databases and start it as the setting says; end it and remove them."""
        stores = self._stores
        await stores.renew(self._agents)
        env = {"REDIS_URL": stores.redis_url, "DATABASE_URL": stores.database_url}
        try:
            async with AsyncExitStack() as stack:
                command, own = [*crew.worker, *setting.arguments], env | setting.env
                workers = [
                    await stack.enter_async_context(
                        background(command, home=crew.home, env=own, log=self.log)
                    )
                    for _ in range(setting.processes)
                ]
                publisher, pid = await stack.enter_async_context(
                    obedient(crew.publisher, home=crew.home, env=env, log=self.log)
                )
                await publisher.ask(Agents(list(self._agents)), Nothing)
                team = Team(publisher, pid, workers)
                yield Turn(self._subject.roots, self._sink, stores, team)
        finally:
            await stores.drop()


class Turn:
    """A peer that runs."""

    def __init__(self, roots: list[int], sink: Child, stores: Stores, team: Team) -> None:
        self._sink = sink
        self._stores = stores
        self._team = team
        labels = {sink.pid: SINK, team.publisher_pid: PUBLISHER, **dict.fromkeys(team.workers, WORKER)}
        self._cpu = CpuMeter(roots)
        self._own_cpu = CpuMeter([], labels)

    async def run(self, count: int, *, rate: int = 0) -> Outcome:
        """Publish and wait until all was pushed and recorded. Raises: Stuck, ChildFailed."""
        await self._sink.ask(SinkOrder(do="reset"), Nothing)
        await self._stores.forget()
        self._cpu.start()
        self._own_cpu.start()
        load = await self._team.publisher.ask(Publish(count, rate), Published)
        await arrival(self._sink, count)
        committed_ns = await self._commit(count)
        cpu_us = self._cpu_us(count)
        sink = await self._sink.ask(SinkOrder(do="report"), SinkReport)
        run = Run(
            messages=count,
            rate=rate,
            per_second=per_second(count, committed_ns - load.first_ns),
            published_per_second=per_second(count, load.last_ns - load.first_ns),
            cpu_us=cpu_us,
            duplicates=sink.duplicates,
            missing=count - sink.distinct,
            latencies=sink.latencies,
            late_ms_max=load.late_ms_max,
        )
        return Outcome(run, await self._stores.count())

    def _cpu_us(self, count: int) -> dict[str, float]:
        of_broker, own = self._cpu.per(count), self._own_cpu.per(count)
        idle = sum(us for part, us in of_broker.items() if part not in SERVERS)
        return {**{part: of_broker.get(part, 0.0) for part in SERVERS}, **own, IDLE: idle}

    async def _commit(self, count: int) -> int:
        """Return the moment before the count was asked for that found every row."""
        best, progress_ns = Counted(0, 0, 0, 0), monotonic_ns()
        while monotonic_ns() - progress_ns < PATIENCE_S * 1e9:
            asked_ns = monotonic_ns()
            found = await self._stores.count()
            if found.delivered >= count and found.attempts - found.failed >= count:
                return asked_ns
            if found != best:
                best, progress_ns = found, monotonic_ns()
            await asyncio.sleep(COUNT_LOOK_S)
        raise Stuck(f"{count} pushed; in Postgres: {best}")


async def open_field(
    stack: AsyncExitStack, subject: Subject, *, ids: list[str], endpoints: int, log: Path
) -> Field:
    """Start receivers on so many ports, the agents spread over them; the stack ends them."""
    sink = await Child.start("broker.bench.sink")
    stack.push_async_callback(sink.stop)
    ports = (await sink.ask(SinkOrder(do="listen", ports=endpoints), Ports)).ports
    return Field(subject, sink, agents_on(ports, ids), log)
