"""Scale-out: more worker processes, trades in processes of their own, and three Redis nodes instead of one.

Every rate stands beside that of one worker process on one Redis node, measured in the same run, and beside
what each part cost a message in CPU. On a machine with fewer cores than processes no layout can be faster
than one that already uses every core: what can be read off then is what another process, and another node,
costs.
Also: how long after a join, a leave or a kill the shards are spread evenly again.

    PYTHONPATH=tests .venv/bin/python -m bench.scale_out [--quick]

The whole takes about four minutes.
"""

import argparse
import asyncio
import os
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from statistics import median
from typing import Final

from msgspec import Struct, field
from msgspec.structs import replace
from rich.console import Console

from bench.deployment import Deployment, Stores, deployed, stores
from bench.kit.broker import CpuMeter
from bench.kit.program import Findings, run
from bench.kit.report import Table
from bench.kit.values import Curve
from broker.streams.cluster import ClusterConnection
from broker.streams.connection import Connection

LAYOUTS: Final[Mapping[str, dict[str, tuple[str, ...]]]] = {
    "1 worker": {"worker-1": ()},
    "2 workers": {"worker-1": (), "worker-2": ()},
    "4 workers": {f"worker-{number}": () for number in range(1, 5)},
    "routing and delivery apart": {
        "router": ("--trades", "route"),
        "deliverer": ("--trades", "deliver"),
    },
}
CHOSEN: Final = {"single": tuple(LAYOUTS), "cluster": ("1 worker", "2 workers")}
CHOSEN_QUICKLY: Final = {"single": ("1 worker", "routing and delivery apart"), "cluster": ("1 worker",)}
WATCHED: Final = 4
"""Workers after the joins whose spreading is watched."""
LOOK_S: Final = 0.02
EVEN_S_MAX: Final = 60.0
TRADES: Final = ("route", "deliver")


class Sizes(Struct, frozen=True):
    """`messages` a run, `rounds` over all layouts."""

    messages: int
    rounds: int
    shards: int = 12
    agents: int = 600
    ports: int = 100
    lease_ms: int = 10_000


FULL: Final = Sizes(messages=12_000, rounds=3)
QUICK: Final = Sizes(messages=600, rounds=1, shards=6, agents=60, ports=10, lease_ms=3_000)


class Measured(Struct):
    """What came of one layout on one kind of Redis, a list with one value a round."""

    rates: list[float] = field(default_factory=list)
    duplicates: int = 0
    cpu: list[dict[str, float]] = field(default_factory=list)
    commands: list[dict[str, float]] = field(default_factory=list)


class Spread(Struct):
    """How shards were spread after something had changed: (seconds since, shards) by worker."""

    what: str
    even_s: float
    series: dict[str, list[tuple[float, float]]]


async def main(args: argparse.Namespace, console: Console) -> Findings:
    sizes = QUICK if args.quick else FULL
    if args.messages:
        sizes = replace(sizes, messages=args.messages)
    measured: dict[tuple[str, str], Measured] = {}
    spreads: list[Spread] = []
    for kind in ("single", "cluster"):
        with stores(kind, shards=sizes.shards) as servers:
            chosen = CHOSEN_QUICKLY[kind] if args.quick else CHOSEN[kind]
            await _on(servers, kind, chosen, sizes, measured, console)
            if kind == "single":
                spreads = await _watch_spreading(servers, sizes, console)
    return _findings(sizes, measured, spreads)


async def _on(
    servers: Stores,
    kind: str,
    layouts: tuple[str, ...],
    sizes: Sizes,
    measured: dict[tuple[str, str], Measured],
    console: Console,
) -> None:
    """Measure layouts in turn, round by round."""
    async with _deployment(servers, sizes) as deployment:
        for number in range(sizes.rounds):
            for layout in layouts if number % 2 == 0 else reversed(layouts):
                found = measured.setdefault((kind, layout), Measured())
                await _measure(deployment, layout, sizes, found)
                console.print(f"{kind}, {layout}: {found.rates[-1]:,.0f}/s", style="dim")


def _deployment(servers: Stores, sizes: Sizes) -> AbstractAsyncContextManager[Deployment]:
    return deployed(
        servers, shards=sizes.shards, lease_ms=sizes.lease_ms, agents=sizes.agents, ports=sizes.ports
    )


async def _measure(deployment: Deployment, layout: str, sizes: Sizes, found: Measured) -> None:
    workers = LAYOUTS[layout]
    for name, words in workers.items():
        await deployment.start_worker(name, *words)
    await _until(lambda: _is_even(deployment, workers))
    await deployment.run(max(200, sizes.messages // 5))
    cpu = CpuMeter([], deployment.labels)
    before = await _commands(deployment.redis)
    cpu.start()
    rate, duplicates = await deployment.run(sizes.messages)
    found.cpu.append(cpu.per(sizes.messages))
    after = await _commands(deployment.redis)
    found.commands.append({node: (after[node] - before[node]) / sizes.messages for node in after})
    found.rates.append(rate)
    found.duplicates += duplicates
    await deployment.stop_workers()


async def _commands(redis: Connection) -> dict[str, float]:
    """Return how many commands each node has done so far; those of scripts count too."""
    nodes: dict[str, Connection] = {"1": redis}
    if isinstance(redis, ClusterConnection):
        nodes = {str(n): redis.node(address) for n, address in enumerate(redis.slots.nodes, 1)}
    counted = {}
    for name, node in nodes.items():
        info = (await node.send("INFO", "stats")).decode()
        lines = dict(line.split(":", 1) for line in info.splitlines() if ":" in line)
        counted[name] = float(lines["total_commands_processed"])
    return counted


# --- how shards spread ------------------------------------------------------------------------------


async def _watch_spreading(servers: Stores, sizes: Sizes, console: Console) -> list[Spread]:
    """Let workers join one that works alone, leave in order, and be killed; watch who holds what."""
    async with _deployment(servers, sizes) as deployment:
        names = [f"worker-{number}" for number in range(1, WATCHED + 1)]
        await deployment.start_worker(names[0])
        await _until(lambda: _is_even(deployment, names[:1]))

        async def join() -> None:
            for name in names[1:]:
                await deployment.start_worker(name)

        async def leave() -> None:
            await deployment.stop_worker(names[3])

        async def die() -> None:
            deployment.kill_worker(names[2])

        spreads = [
            await _watched(deployment, "three join one", join, names),
            await _watched(deployment, "one leaves", leave, names[:3]),
            await _watched(deployment, "one is killed", die, names[:2]),
        ]
        for spread in spreads:
            console.print(f"{spread.what}: even after {spread.even_s:.2f} s", style="dim")
    return spreads


async def _watched(
    deployment: Deployment, what: str, change: Callable[[], Awaitable[None]], names: list[str]
) -> Spread:
    """Change something and watch the shards of the delivery trade until both trades are even."""
    began_s = time.monotonic()
    series: dict[str, list[tuple[float, float]]] = {}
    changing = asyncio.ensure_future(change())
    even = False
    while not even and time.monotonic() - began_s < EVEN_S_MAX:
        even = await _is_even(deployment, names)
        # Looked at after the verdict, so that the last points are those that were judged even.
        since_s = time.monotonic() - began_s
        held = Counter(owner.removesuffix(".bench") for owner in await deployment.owners("deliver"))
        for name in {*held, *names, *series} - {""}:
            series.setdefault(name, []).append((since_s, float(held[name])))
        if not even:
            await asyncio.sleep(LOOK_S)
    await changing
    return Spread(what, time.monotonic() - began_s, series)


async def _is_even(deployment: Deployment, names: Mapping[str, tuple[str, ...]] | list[str]) -> bool:
    """Tell whether these workers, and nobody else, hold every shard of their trades, spread evenly."""
    words = names if isinstance(names, Mapping) else dict.fromkeys(names, ())
    for trade in TRADES:
        holders = {f"{name}.bench" for name, said in words.items() if not said or trade in said}
        held = Counter(await deployment.owners(trade))
        shares = [held[name] for name in holders]
        if sum(shares) != deployment.shards or max(shares) - min(shares) > 1:
            return False
    return True


async def _until(true: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(EVEN_S_MAX):
        while not await true():  # noqa: ASYNC110  # what is waited for happens in other processes
            await asyncio.sleep(LOOK_S)


# --- what is said of it -----------------------------------------------------------------------------


def _findings(sizes: Sizes, measured: dict[tuple[str, str], Measured], spreads: list[Spread]) -> Findings:
    alone = median(measured["single", "1 worker"].rates)
    findings = Findings(
        tables=[_rates(measured, alone), _costs(measured), _nodes(measured), _spreading(sizes, spreads)],
        curves=[
            Curve(
                f"shards-{number}", f"Shards by worker: {spread.what}", "seconds", "shards", spread.series,
                log_x=False,
            )
            for number, spread in enumerate(spreads, 1)
        ],
    )  # fmt: skip
    cores = len(os.sched_getaffinity(0))
    findings.notes.append(
        f"This machine has {cores} cores, and publisher, sink, Redis, PostgreSQL, recorder and workers share "
        "them. Where one worker already keeps all of them busy, a second process cannot add to the rate; "
        "the CPU a message costs says what it adds to the bill."
    )
    for (kind, layout), found in measured.items():
        if found.duplicates:
            findings.wrong.append(f"{kind}, {layout}: {found.duplicates} messages came twice")
    findings.wrong += [
        f"{spread.what}: not even after {spread.even_s:.0f} s"
        for spread in spreads
        if spread.even_s >= EVEN_S_MAX
    ]
    return findings


def _rates(measured: dict[tuple[str, str], Measured], alone: float) -> Table:
    rows: list[list[str | int | float | None]] = []
    for (kind, layout), found in measured.items():
        rate = median(found.rates)
        total = median(sum(cpu.values()) for cpu in found.cpu)
        rows.append([_name(kind), layout, round(rate), rate / alone, total])
    return Table(
        "Messages/s from publish to committed rows, flat out",
        ["redis", "workers", "messages/s", "of one worker, one node", "CPU us a message, all parts"],
        rows,
    )


def _costs(measured: dict[tuple[str, str], Measured]) -> Table:
    parts = ("valkey", "postgres", "worker", "router", "deliverer", "recorder", "keeper", "publisher", "sink")
    rows: list[list[str | int | float | None]] = []
    for (kind, layout), found in measured.items():
        sums = [
            median(sum(us for label, us in cpu.items() if label.startswith(part)) for cpu in found.cpu)
            for part in parts
        ]
        rows.append([_name(kind), layout, *(value or None for value in sums)])
    return Table(
        "CPU us a message by part, all processes of a part together", ["redis", "workers", *parts], rows
    )


def _nodes(measured: dict[tuple[str, str], Measured]) -> Table:
    rows: list[list[str | int | float | None]] = []
    for (kind, layout), found in measured.items():
        if kind != "cluster":
            continue
        commands = [median(one[node] for one in found.commands) for node in found.commands[0]]
        names = sorted({label for cpu in found.cpu for label in cpu if label.startswith("valkey")})
        cpus = [median(cpu.get(name, 0.0) for cpu in found.cpu) for name in names]
        cpus += [0.0] * (len(commands) - len(cpus))  # a quick run takes less than a tick of some node
        rows.append(
            [layout, *commands, max(commands) / min(commands), *cpus, max(cpus) / max(min(cpus), 1e-9)]
        )
    count = range(1, 4)
    return Table(
        "Three nodes: how even their load is",
        ["workers", *(f"commands a message, {n}" for n in count), "most/least",
         *(f"CPU us a message, {n}" for n in count), "most/least CPU"],
        rows,
        note="Commands in the order of ports, CPU in the order of starting: compare spreads, not columns.",
    )  # fmt: skip


def _spreading(sizes: Sizes, spreads: list[Spread]) -> Table:
    return Table(
        f"Seconds until {sizes.shards} shards were spread evenly, for both trades",
        ["what", "seconds"],
        [[spread.what, round(spread.even_s, 2)] for spread in spreads],
        note=f"Leases of {sizes.lease_ms / 1000:.0f} s: who is killed is missed when its lease ends. "
        "A join counts from the command that starts the process, most of which is its start.",
    )


def _name(kind: str) -> str:
    return "one node" if kind == "single" else "three nodes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--messages", type=int, default=0, help="messages of a run (default by --quick)")


if __name__ == "__main__":
    run("scale_out", "Scale-out: workers, trades apart, three Redis nodes", main, add_arguments)
