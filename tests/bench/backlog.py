"""A backlog: what very many waiting messages of agents that are away do to those that are there, what memory
they take, and how fast they leave when the agents come back.

The fleet that is away consists of agents whose endpoint refuses, agents whose endpoint takes a connection and
never answers, and agents that pull and do not. Beside it healthy agents get a paced load of their own:
without a backlog, at a few sizes of it, at its full size, and when it has gone. When the fleet returns, every
agent of it is given an endpoint that answers, and each message has to arrive there once.

One run with a backlog beside one without says more about the machine's minute than about the backlog. So each
load is cut into short windows in turns with the bare loop (A B A B); there are as many without a backlog as
with the whole, half of them before and half after; and the medians of the windows' p99 are compared.
"""

import argparse
import asyncio
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from itertools import pairwise
from secrets import token_hex
from time import monotonic
from typing import Any, Final

import asyncpg
from msgspec import Struct, field
from redis.asyncio import Redis
from rich.console import Console

from bench import registering, watching
from bench.kit.broker import Broker, CpuMeter, fresh_broker
from bench.kit.program import run
from bench.kit.report import Aim, Findings, Table
from bench.kit.values import Curve
from broker.bench.ceiling import CeilingOrder, CeilingReport
from broker.bench.commits import Commits
from broker.bench.control import Child, Nothing
from broker.bench.figures import Latencies, median
from broker.bench.fleet import path_of
from broker.bench.load import LoadOrder, LoadReport
from broker.bench.payload import Fleet
from broker.bench.sink import Ports, SinkOrder, SinkReport
from broker.bench.tables import Cell
from broker.store.pool import Pool, open_pool
from broker.streams.connection import Connection, open_connection
from schema.agent import Agent

SHARDS: Final = 2
HEALTHY: Final = 200
AWAY: Final = 1_000
PORTS: Final = 50
RATE: Final = 1_000
"""Messages a second to the healthy agents: p99 is the broker's own there, not that of a full machine."""
STEPS: Final = 10
STEPS_PACED: Final = (0, 3)
"""Steps on the way after which the healthy agents get their load, too."""
SLOWER_AIM: Final = 1.5
STEADY_AIM: Final = 2.0
"""A drain is steady where the fastest tenth of it is at most so much faster than the slowest."""
LINEAR_AIM: Final = 1.25
GIVEN_BACK_AIM: Final = 0.9
LOOK_S: Final = 1.0
REST_S: Final = 15.0
"""Empty mailboxes are gone after a few seconds; those with retries stay."""
PATIENCE_S: Final = 180.0
"""Without any progress. A breaker waits for a minute at most, a retry for ten."""
WORKER_BYTES_AIM: Final = 256 * 2**20


class Plan(Struct, frozen=True, kw_only=True):
    """Sizes of a run. `windows`: of the healthy agents' load beside the whole backlog; half as many before it
    and after it. Each lasts `paced_s`, and the bare loop's after each `bare_s`."""

    messages: int
    away: int
    windows: int
    paced_s: int
    bare_s: int

    @property
    def steps(self) -> list[int]:
        """Sizes of the backlog at which memory is looked at."""
        return [self.messages * step // STEPS for step in range(1, STEPS + 1)]


class Look(Struct, frozen=True):
    """Memory with so many messages waiting."""

    waiting: int
    redis: watching.RedisMemory
    resident: dict[str, int]


class Window(Struct, frozen=True):
    """A paced load to the healthy agents, and then to their receivers by the bare loop."""

    latencies: Latencies
    bare: Latencies
    missing: int
    cpu_us: dict[str, float]


class Paced(Struct, frozen=True):
    """The windows beside a backlog of one size."""

    when: str
    waiting: int
    windows: list[Window]

    def middle(self, percentile: str) -> float:
        """Return the median of the windows' percentile, in milliseconds."""
        return median([getattr(one.latencies, percentile) for one in self.windows])


class Yard(Struct, kw_only=True):
    """The broker, the publishers and receivers of both fleets, and what has been found."""

    broker: Broker
    pool: Pool
    connection: Connection
    redis: Any  # neither driver types its replies
    database: Any
    plan: Plan
    sink: Child
    load: Child
    fleet_sink: Child
    fleet_load: Child
    ceiling: Child
    looks: list[Look] = field(default_factory=list)
    paced: list[Paced] = field(default_factory=list)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--messages", type=int, default=1_000_000, help="messages of the backlog (default 1000000)"
    )
    parser.add_argument("--away", type=int, default=AWAY, help=f"agents that are away (default {AWAY})")
    parser.add_argument(
        "--kinds", default="refuse,hang,pull", help="how they are away (default refuse,hang,pull)"
    )


async def main(args: argparse.Namespace, console: Console) -> Findings:
    plan = Plan(messages=args.messages, away=args.away, windows=10, paced_s=5, bare_s=3)
    if args.quick:
        plan = Plan(messages=2_000, away=30, windows=2, paced_s=1, bare_s=1)
    findings = Findings()
    async with AsyncExitStack() as stack:
        yard = await _open(stack, plan)
        kinds = stack.enter_context(_endpoints_away(args.kinds.split(",")))
        ports = await _listen(yard.sink)
        await _open_ceiling(stack, yard, ports)
        healthy = await _register(yard, HEALTHY, "here", _spread(ports))
        away = await _register(yard, plan.away, "away", lambda number: kinds[number % len(kinds)])
        await _point(yard.load, yard, healthy)
        await _point(yard.fleet_load, yard, away)
        await _warm_up(yard)
        await _look(yard, 0)
        await _pace(yard, console, "before", 0, plan.windows // 2)
        filled_s = await _fill(yard, console)
        await _pace(yard, console, "with all of it", plan.messages, plan.windows)
        full = await _look(yard, plan.messages)
        drain = await _drain(yard, console, away)
        rest = await _rest(yard)
        await _account(yard, drain)
        await _pace(yard, console, "after", 0, plan.windows // 2)
        _report(findings, yard, filled_s=filled_s, full=full, drain=drain, rest=rest)
    return findings


async def _open(stack: AsyncExitStack, plan: Plan) -> Yard:
    # What the largest backlog takes, twice: the append-only file is rewritten while it lies there.
    env = {"VALKEY_MAXMEMORY_MB": "8192", "SHARDS": str(SHARDS)}
    broker = await stack.enter_async_context(fresh_broker(env=env))
    pool = await open_pool(broker.database_url, application_name="bench")
    stack.push_async_callback(pool.aclose)
    connection = await stack.enter_async_context(await open_connection(broker.redis_url, name="bench"))
    redis = await stack.enter_async_context(Redis.from_url(broker.redis_url))
    database = await asyncpg.connect(broker.database_url)
    stack.push_async_callback(database.close)
    modules = ("sink", "load", "sink", "load", "ceiling")
    children = [await _child(stack, f"broker.bench.{module}") for module in modules]
    sink, load, fleet_sink, fleet_load, ceiling = children
    return Yard(
        broker=broker,
        pool=pool,
        connection=connection,
        redis=redis,
        database=database,
        plan=plan,
        sink=sink,
        load=load,
        fleet_sink=fleet_sink,
        fleet_load=fleet_load,
        ceiling=ceiling,
    )


async def _child(stack: AsyncExitStack, module: str) -> Child:
    child = await Child.start(module)
    stack.push_async_callback(child.stop)
    return child


@contextmanager
def _endpoints_away(kinds: Sequence[str]) -> Iterator[list[str | None]]:
    """Return one endpoint for each kind of being away: a port that refuses, one that takes connections and
    never answers (few of them: its queue is short), none at all."""
    with socket.socket() as refusing, socket.socket() as hanging:
        refusing.bind(("127.0.0.1", 0))
        hanging.bind(("127.0.0.1", 0))
        hanging.listen(1)
        known = {
            "refuse": f"http://127.0.0.1:{refusing.getsockname()[1]}/hook",
            "hang": f"http://127.0.0.1:{hanging.getsockname()[1]}/hook",
            "pull": None,
        }
        yield [known[kind] for kind in kinds]


async def _listen(sink: Child) -> list[int]:
    """Let a receiver listen; return its ports."""
    return (await sink.ask(SinkOrder(do="listen", ports=PORTS), Ports)).ports


def _spread(ports: Sequence[int]) -> registering.EndpointOf:
    """Return endpoints spread over ports."""
    return lambda number: f"http://127.0.0.1:{ports[number % len(ports)]}{path_of(number)}"


async def _open_ceiling(stack: AsyncExitStack, yard: Yard, ports: list[int]) -> None:
    """Let the bare loop post to these ports; what it has made is removed at the end."""
    broker = yard.broker
    order = CeilingOrder(do="open", redis_url=broker.redis_url, database_url=broker.database_url, ports=ports)
    await yard.ceiling.ask(order, Nothing)

    async def close() -> None:
        await yard.ceiling.ask(CeilingOrder(do="close"), Nothing)

    stack.push_async_callback(close)


async def _register(yard: Yard, count: int, name: str, endpoint: registering.EndpointOf) -> list[Agent]:
    agents = registering.make_agents(
        count,
        name=f"{name}-{token_hex(3)}",
        endpoint=endpoint,
        capabilities=lambda _: [name],
        now_ms=await watching.now_ms(yard.redis),
    )
    pepper = yard.broker.settings["KEY_PEPPER"]
    await registering.register_rows(yard.pool, yard.connection, agents, pepper=pepper)
    return agents


async def _point(load: Child, yard: Yard, agents: Sequence[Agent]) -> None:
    """Let a publisher send to these agents; every message names one, so that none goes to the other fleet."""
    fleet = Fleet(agents=[agent.id for agent in agents], skills=[])
    await load.ask(LoadOrder(do="open", redis_url=yard.broker.redis_url, fleet=fleet), Nothing)


async def _warm_up(yard: Yard) -> None:
    await yard.sink.ask(SinkOrder(do="reset"), Nothing)
    count = 10 * HEALTHY
    await yard.load.ask(LoadOrder(do="publish", count=count), LoadReport)
    await _arrived(yard.sink, count)


# --- the healthy -----------------------------------------------------------------------------------------


async def _pace(yard: Yard, console: Console, when: str, waiting: int, windows: int) -> None:
    """Let the healthy agents, and the bare loop in turns with them, have their windows."""
    found = Paced(when, waiting, [await _window(yard) for _ in range(max(windows, 1))])
    yard.paced.append(found)
    p50, p99 = found.middle("p50_ms"), found.middle("p99_ms")
    each = " ".join(f"{one.latencies.p99_ms:.1f}" for one in found.windows)
    console.print(f"{when}, {waiting:,} waiting: p50 {p50:.2f} ms, p99 {p99:.2f} ms ({each})", style="dim")


async def _window(yard: Yard) -> Window:
    """Publish at a steady rate to the healthy agents, then at the same through the bare loop; note how long
    each message took to its 200."""
    count = RATE * yard.plan.paced_s
    cpu = CpuMeter(yard.broker.roots)
    await yard.sink.ask(SinkOrder(do="reset"), Nothing)
    cpu.start()
    await yard.load.ask(LoadOrder(do="publish", count=count, rate=RATE), LoadReport)
    await _arrived(yard.sink, count)
    used = cpu.per(count)
    found = await yard.sink.ask(SinkOrder(do="report"), SinkReport)
    await yard.sink.ask(SinkOrder(do="reset"), Nothing)
    bare_count = RATE * yard.plan.bare_s
    loop = asyncio.ensure_future(yard.ceiling.ask(CeilingOrder(do="run", count=bare_count), CeilingReport))
    await yard.load.ask(LoadOrder(do="publish", count=bare_count, rate=RATE, way="bare"), LoadReport)
    await loop
    bare = await yard.sink.ask(SinkOrder(do="report"), SinkReport)
    return Window(found.latencies, bare.latencies, count - found.distinct, used)


async def _arrived(sink: Child, count: int) -> None:
    """Wait until a receiver has seen so many messages. Raises: Stuck."""
    began, seen = monotonic(), 0
    while (found := (await sink.ask(SinkOrder(do="count"), SinkReport)).distinct) < count:
        if found > seen:
            began, seen = monotonic(), found
        watching.be_patient(began, PATIENCE_S, f"{count} published, {found} arrived")
        await asyncio.sleep(0.05)


# --- the backlog -----------------------------------------------------------------------------------------


async def _fill(yard: Yard, console: Console) -> float:
    """Publish the backlog in steps, looking at memory after each; return the seconds spent on publishing."""
    spent, done = 0.0, 0
    for size in yard.plan.steps:
        began = monotonic()
        await yard.fleet_load.ask(LoadOrder(do="publish", count=size - done), LoadReport)
        await _until_routed(yard)
        spent += monotonic() - began
        done = size
        look = await _look(yard, size)
        data, worker = look.redis.data / 2**20, look.resident.get("worker", 0) / 2**20
        console.print(f"{size:,} waiting: Redis {data:,.0f} MB, worker {worker:,.0f} MB", style="dim")
        if size in [yard.plan.steps[step] for step in STEPS_PACED]:
            await _pace(yard, console, "on the way", size, yard.plan.windows // 4)
    return spent


async def _until_routed(yard: Yard) -> None:
    """Wait until nothing is left to route, and the record has caught up. Raises: Stuck."""
    commits = Commits(yard.database, yard.redis, SHARDS)
    began, least = monotonic(), 1 << 60
    while True:
        left = await _ingress_entries(yard)
        if not left and await commits._ledgers_are_empty():
            return
        if left < least:
            began, least = monotonic(), left
        watching.be_patient(began, PATIENCE_S, f"{left} entries are not routed")
        await asyncio.sleep(0.1)


async def _ingress_entries(yard: Yard) -> int:
    found = await yard.connection.send_many(
        [
            ("XLEN", f"ab:{{{shard}}}:ingress:{lane}")
            for shard in range(SHARDS)
            for lane in ("high", "normal", "low")
        ]
    )
    return sum(found)


async def _look(yard: Yard, waiting: int) -> Look:
    look = Look(
        waiting, await watching.redis_memory_at_rest(yard.redis), watching.resident_bytes(yard.broker.roots)
    )
    yard.looks.append(look)
    return look


# --- the return ------------------------------------------------------------------------------------------


class Drain(Struct):
    """How a backlog left: seconds since the return and messages arrived by then; CPU of each message.

    `retrying`: messages tried before the return that wait for their next attempt, up to ten minutes."""

    points: list[tuple[float, int]]
    duplicates: int
    missing: int
    retrying: int
    cpu_us: dict[str, float]
    resident: dict[str, int]


async def _drain(yard: Yard, console: Console, away: Sequence[Agent]) -> Drain:
    """Give the fleet endpoints that answer, and watch every message arrive. Raises: Stuck."""
    wanted = yard.plan.messages
    endpoint = _spread(await _listen(yard.fleet_sink))
    cpu = CpuMeter(yard.broker.roots, {yard.fleet_sink.pid: "sink"})
    cpu.start()
    began = stalled = monotonic()
    await registering.move(yard.pool, yard.connection, away, endpoint)
    points: list[tuple[float, int]] = [(0.0, 0)]
    peak: dict[str, int] = {}
    while points[-1][1] + await _retrying(yard) < wanted:
        await asyncio.sleep(LOOK_S if wanted > 10_000 else LOOK_S / 20)
        found = await yard.fleet_sink.ask(SinkOrder(do="count"), SinkReport)
        if found.distinct > points[-1][1]:
            stalled = monotonic()
        watching.be_patient(
            stalled, PATIENCE_S, f"{wanted} waited, {found.distinct} arrived after the return"
        )
        points.append((monotonic() - began, found.distinct))
        for role, size in watching.resident_bytes(yard.broker.roots).items():
            peak[role] = max(peak.get(role, 0), size)
    console.print(f"back: {points[-1][1]:,} arrived in {points[-1][0]:.1f} s", style="dim")
    return Drain(points, 0, 0, 0, cpu.per(wanted), peak)


async def _account(yard: Yard, drain: Drain) -> None:
    """Note what became of every message, once nothing moves any more."""
    last = await yard.fleet_sink.ask(SinkOrder(do="count"), SinkReport)
    drain.retrying = await _retrying(yard)
    drain.duplicates = last.duplicates
    drain.missing = yard.plan.messages - last.distinct - drain.retrying


async def _retrying(yard: Yard) -> int:
    found = await yard.connection.send_many([("ZCARD", f"ab:{{{shard}}}:due") for shard in range(SHARDS)])
    return sum(found)


async def _rest(yard: Yard) -> Look:
    """Look at memory once everything is recorded and the mailboxes are gone."""
    await _until_routed(yard)
    began = monotonic()
    while sum(
        await yard.connection.send_many([("ZCARD", f"ab:{{{shard}}}:active") for shard in range(SHARDS)])
    ):
        if monotonic() - began > REST_S:
            break
        await asyncio.sleep(0.5)
    return await _look(yard, 0)


# --- the report ------------------------------------------------------------------------------------------


def _report(findings: Findings, yard: Yard, *, filled_s: float, full: Look, drain: Drain, rest: Look) -> None:
    _report_healthy(findings, yard)
    _report_memory(findings, yard, full, rest)
    _report_drain(findings, yard, drain, filled_s)


def _report_healthy(findings: Findings, yard: Yard) -> None:
    rows: list[list[Cell]] = []
    for one in yard.paced:
        p99s = sorted(window.latencies.p99_ms for window in one.windows)
        rows.append(
            [one.when, one.waiting, len(one.windows)]
            + [one.middle("p50_ms"), one.middle("p99_ms"), p99s[0], p99s[-1]]
            + [median([window.bare.p99_ms for window in one.windows])]
            + [
                round(median([window.cpu_us.get(part, 0.0) for window in one.windows]), 1)
                for part in ("worker", "valkey", "postgres", "keeper")
            ]
        )
        if missing := sum(window.missing for window in one.windows):
            findings.wrong.append(f"{missing} messages to healthy agents missing beside {one.waiting}")
    columns = [
        *("when", "waiting", "windows", "p50 ms", "p99 ms", "least p99", "greatest p99", "bare loop p99 ms"),
        *("worker us", "valkey us", "postgres us", "keeper us"),
    ]
    findings.tables.append(
        Table(
            f"Healthy agents at {RATE:,} messages/s, publish to 200, beside the backlog",
            columns,
            rows,
            f"Windows of {yard.plan.paced_s} s in turns with the bare loop's of {yard.plan.bare_s} s; "
            "medians of them, but for the least and the greatest. CPU of everything the broker does in a "
            "window, for each message to a healthy agent.",
        )
    )
    on_the_way = [one for one in yard.paced if one.when != "after"]
    findings.curves.append(
        Curve(
            "healthy",
            f"Healthy agents at {RATE:,}/s beside a backlog",
            "messages waiting",
            "ms",
            {
                "p50": [(float(one.waiting), one.middle("p50_ms")) for one in on_the_way],
                "p99": [(float(one.waiting), one.middle("p99_ms")) for one in on_the_way],
            },
            log_x=False,
        )
    )
    without, beside = [
        [window for one in yard.paced if one.waiting == waiting for window in one.windows]
        for waiting in (0, yard.plan.messages)
    ]
    p99, p99_beside = [median([one.latencies.p99_ms for one in each]) for each in (without, beside)]
    bare, bare_beside = [median([one.bare.p99_ms for one in each]) for each in (without, beside)]
    findings.aims.append(
        Aim(
            f"p99 of healthy agents with {yard.plan.messages:,} waiting, medians of windows",
            f"<= {SLOWER_AIM}x",
            f"{p99_beside / p99:.2f}x ({p99:.2f} -> {p99_beside:.2f} ms; "
            f"the bare loop meanwhile {bare:.2f} -> {bare_beside:.2f} ms)",
            p99_beside <= SLOWER_AIM * p99,
        )
    )


def _report_memory(findings: Findings, yard: Yard, full: Look, rest: Look) -> None:
    empty, growing = yard.looks[0], yard.looks[1:-1]
    roles = ("worker", "recorder", "keeper")
    rows: list[list[Cell]] = []
    for look in [empty, *growing, rest]:
        each = (look.redis.data - empty.redis.data) / look.waiting if look.waiting else None
        sizes = [
            look.redis.data,
            look.redis.seen,
            look.redis.resident,
            *(look.resident.get(role, 0) for role in roles),
        ]
        rows.append([look.waiting, each, *(round(size / 2**20, 1) for size in sizes)])
    columns = [
        "waiting",
        "Redis bytes each",
        "Redis data MB",
        "deduplication MB",
        "Redis resident MB",
        *(f"{role} MB" for role in roles),
    ]
    findings.tables.append(
        Table("Memory by the size of the backlog", columns, rows, "Last row: after all of it has left.")
    )
    megabyte: Callable[[int], float] = lambda size: size / 2**20  # noqa: E731
    findings.curves.append(
        Curve(
            "memory",
            "Memory by the size of the backlog",
            "messages waiting",
            "MB",
            {
                "Redis data": [(float(one.waiting), megabyte(one.redis.data)) for one in [empty, *growing]],
                "Redis resident": [
                    (float(one.waiting), megabyte(one.redis.resident)) for one in [empty, *growing]
                ],
                "worker": [
                    (float(one.waiting), megabyte(one.resident.get("worker", 0))) for one in [empty, *growing]
                ],
            },
            log_x=False,
        )
    )
    first = (growing[0].redis.data - empty.redis.data) / growing[0].waiting
    last = (full.redis.data - empty.redis.data) / full.waiting
    given = 1 - (rest.redis.data - empty.redis.data) / (full.redis.data - empty.redis.data)
    grown = (full.resident.get("worker", 0) - growing[0].resident.get("worker", 0)) / 2**20
    findings.aims += [
        Aim(
            "Redis bytes for each waiting message, the whole backlog against a tenth of it",
            f"<= {LINEAR_AIM}x",
            f"{last / first:.2f}x ({first:.0f} -> {last:.0f})",
            last <= LINEAR_AIM * first,
        ),
        Aim(
            "of Redis' memory given back", f">= {GIVEN_BACK_AIM:.0%}", f"{given:.1%}", given >= GIVEN_BACK_AIM
        ),
        Aim(
            "the worker's memory, from a tenth to the whole backlog",
            f"<= {WORKER_BYTES_AIM / 2**20:.0f} MB more",
            f"{grown:.0f} MB more",
            grown * 2**20 <= WORKER_BYTES_AIM,
        ),
    ]


def _report_drain(findings: Findings, yard: Yard, drain: Drain, filled_s: float) -> None:
    wanted = yard.plan.messages
    if drain.missing or drain.duplicates:
        findings.wrong.append(f"the backlog: {drain.missing} missing, {drain.duplicates} twice")
    tenths = _tenths(drain.points, drain.points[-1][1])
    # The first and the last tenth begin and end with breakers and retries that wait for their time.
    steady = sorted(rate for _, rate in tenths[1:-1]) or [rate for _, rate in tenths]
    rows: list[list[Cell]] = [
        [f"{number * 10}-{number * 10 + 10} %", rate] for number, (_, rate) in enumerate(tenths)
    ]
    cpu = ", ".join(f"{part} {us:.0f}" for part, us in drain.cpu_us.items())
    findings.tables.append(
        Table(
            "The drain after the return",
            ["of the backlog", "messages/s"],
            rows,
            f"{wanted:,} in {drain.points[-1][0]:.0f} s. CPU us a message: {cpu}. "
            f"Filling: {wanted / filled_s:,.0f}/s. {drain.retrying:,} tried before are to be tried again. "
            f"Worker: {drain.resident.get('worker', 0) / 2**20:,.0f} MB at most.",
        )
    )
    points = drain.points[:: max(1, len(drain.points) // 100)]
    findings.curves.append(
        Curve(
            "drain",
            "The drain after the return",
            "seconds since the return",
            "messages/s",
            {
                "arriving": [
                    (after[0], (after[1] - before[1]) / (after[0] - before[0]))
                    for before, after in pairwise(points)
                ]
            },
            log_x=False,
        )
    )
    ratio = steady[-1] / max(steady[0], 1e-9)
    findings.aims.append(
        Aim(
            "the drain's rate, its fastest tenth against its slowest (without the first and the last)",
            f"<= {STEADY_AIM}x",
            f"{ratio:.2f}x ({steady[0]:,.0f} to {steady[-1]:,.0f}/s)",
            ratio <= STEADY_AIM,
        )
    )


def _tenths(points: Sequence[tuple[float, int]], wanted: int) -> list[tuple[float, float]]:
    """Return, for every tenth of what arrived, when it was there and at what rate it came."""
    found: list[tuple[float, float]] = []
    began_s, began = points[0]
    for after_s, arrived in points:
        if arrived >= wanted * (len(found) + 1) / 10 and after_s > began_s:
            rate = (arrived - began) / (after_s - began_s)
            while len(found) < 10 and arrived >= wanted * (len(found) + 1) / 10:
                found.append((after_s, rate))
            began_s, began = after_s, arrived
    return found


# --- waiting ---------------------------------------------------------------------------------------------


if __name__ == "__main__":
    run("backlog", "Backlogs", main, add_arguments)
