"""Routing by capability: what a decision costs, what a process that only routes can do, how fast a directory
of very many agents is there and how soon every router knows of a change.

    PYTHONPATH=tests python -m bench.routing [--quick] [--out DIR]      (about 4 minutes)

Decisions are measured in memory, each size in a process of its own. Rates are those of one process that holds
the route leases of all shards, on `appendfsync always`: the ingress is filled first, then it is started, and
what counts is the time from the first entry gone to the last. In turn with it a bare loop moves as many
messages into as many mailboxes. Recipients pull, so that nothing is pushed.
"""

import argparse
import asyncio
import os
import sys
from contextlib import AsyncExitStack
from secrets import token_hex
from statistics import median
from time import monotonic, time_ns
from typing import Final

import msgspec
from msgspec import Struct
from rich.console import Console

from bench.bare_router import BareOrder, BareReport
from bench.deciding import Deciding
from bench.kit.broker import CpuMeter
from bench.kit.program import run
from bench.kit.report import Aim, Findings, Table
from bench.kit.values import Curve
from bench.loading import Loading
from bench.route_stage import PATIENCE_S, SHARDS, Stage, open_stage, owners_of
from broker.bench.commits import Stuck
from broker.bench.control import Child, ChildFailed, Nothing
from broker.core.parking import Signature
from broker.store import agents
from broker.store.keys import StoredKey
from broker.streams.keys import Keys
from broker.streams.registry import announce
from schema.agent import Agent
from schema.ids import new_id, shard_of
from schema.message import Envelope, Lane

DECISION_AIM_US: Final = 10.0
GROWTH_AIM: Final = 2.0
RATE_AIM: Final = 40_000
SEEN_AIM_S: Final = 1.0
FEW: Final = 100
LOOK_S: Final = 0.002
Cpu = dict[str, float]


class Sizes(Struct, frozen=True, kw_only=True):
    """What is measured. `agents`: directories; the first is the base of the growth."""

    agents: tuple[int, ...] = (100, 1_000, 10_000, 100_000)
    capabilities: tuple[int, ...] = (10, 100, 1_000)
    decisions: int = 20_000
    registered: tuple[int, ...] = (1_000, 100_000)
    spread: int = 1_000
    messages: int = 200_000
    repeat: int = 3
    changes: int = 20


QUICK: Final = Sizes(
    agents=(FEW, 300), capabilities=(10,), decisions=300, registered=(50, 100), spread=20, messages=1_000,
    repeat=1, changes=2,
)  # fmt: skip


class Rate(Struct):
    """One run: messages a second and CPU microseconds a message, by part."""

    per_second: float
    cpu_us: Cpu


class Routed(Struct):
    """Runs of the product and of the bare loop, with so many agents registered."""

    agents: int
    product: list[Rate]
    bare: list[Rate]


async def main(args: argparse.Namespace, console: Console) -> Findings:
    sizes = QUICK if args.quick else Sizes()
    findings = Findings()
    decided = [
        await _decide(agents_count, capabilities, sizes)
        for capabilities in sizes.capabilities
        for agents_count in sizes.agents
    ]
    tell_decisions(findings, decided)
    async with open_stage() as stage:
        routed, loaded = [], []
        for count in sizes.registered:
            console.print(f"{count:,} agents", style="dim")
            await stage.register(count)
            loaded.append(await _load(stage))
            routed.append(await _rates(stage, sizes, findings))
        tell_rates(findings, routed)
        tell_loading(findings, loaded)
        tell_changes(findings, await _changes(stage, sizes.changes, findings), len(stage.agents))
    return findings


# --- decisions --------------------------------------------------------------------------------------------


async def _decide(agents_count: int, capabilities: int, sizes: Sizes) -> Deciding:
    words = ("--agents", agents_count, "--capabilities", capabilities, "--decisions", sizes.decisions)
    return msgspec.json.decode(await _output("bench.deciding", *map(str, words)), type=Deciding)


async def _output(module: str, *words: str, env: dict[str, str] | None = None) -> bytes:
    """Run a module to its end and return what it printed. Raises: ChildFailed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *words,
        stdout=asyncio.subprocess.PIPE, start_new_session=True, env={**os.environ, **(env or {})},
    )  # fmt: skip
    try:
        out, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise ChildFailed(f"{module} ended with {process.returncode}")
    return out


def tell_decisions(findings: Findings, decided: list[Deciding]) -> None:
    """Add the table, the curve and the aims of decisions."""
    columns = [
        "agents", "capabilities", "candidates", "one capability", "two", "first of its kind",
        "registry changing", "explanation", "bare pick", "build s", "index MB",
    ]  # fmt: skip
    rows = [
        [
            *(one.agents, one.capabilities, one.candidates, one.one_us, one.two_us, one.cold_us),
            *(one.churned_us, one.explained_us, one.bare_us, one.build_s, one.index_bytes / 1e6),
        ]
        for one in decided
    ]
    note = (
        "CPU us a decision. Registry changing: an agent goes and comes once in 100 decisions. Explanation: \
what is stored with the message. Bare pick: a dictionary of lists and a random index, no filter, no load."
    )
    findings.tables.append(Table("A decision by capability", columns, rows, note))
    series: dict[str, list[tuple[float, float]]] = {}
    for one in decided:
        name = f"{one.capabilities:,} capabilities"
        series.setdefault(name, []).append((one.agents, one.one_us))
    findings.curves.append(
        Curve("decision", "CPU of a decision by capability", "agents registered", "us", series)
    )
    worst = max(decided, key=lambda one: max(one.one_us, one.two_us))
    most = max(worst.one_us, worst.two_us)
    findings.aims.append(
        Aim("a decision", f"<= {DECISION_AIM_US:.0f} us", f"{most:.1f} us at worst", most <= DECISION_AIM_US)
    )
    grown = growth(decided)
    if grown is not None:
        findings.aims.append(
            Aim(
                "its growth from the fewest agents to the most",
                f"<= {GROWTH_AIM:.0f}x",
                f"{grown:.2f}x",
                grown <= GROWTH_AIM,
            )
        )


def growth(decided: list[Deciding]) -> float | None:
    """Return how much dearer a decision is with the most agents than with the fewest, at worst.

    Compared where there is a choice both times: with fewer agents than capabilities there is one candidate,
    or none, and nothing is decided.
    """
    ratios = []
    for capabilities in {one.capabilities for one in decided}:
        same = sorted(
            (one for one in decided if one.capabilities == capabilities and one.candidates > 1),
            key=lambda one: one.agents,
        )
        if len(same) > 1:
            ratios.append(same[-1].one_us / same[0].one_us)
    return max(ratios, default=None)


# --- rates ------------------------------------------------------------------------------------------------


async def _rates(stage: Stage, sizes: Sizes, findings: Findings) -> Routed:
    routed = Routed(len(stage.agents), [], [])
    for _ in range(sizes.repeat):
        routed.product.append(await _route(stage, sizes, findings))
        routed.bare.append(await _route_bare(stage, sizes))
    return routed


async def _route(stage: Stage, sizes: Sizes, findings: Findings) -> Rate:
    await stage.clear()
    await stage.fill(sizes.messages, spread=sizes.spread)
    async with stage.router():
        meter = CpuMeter(stage.broker.roots)
        left = int(sizes.messages * await stage.begun())
        meter.start()
        began = monotonic()
        await stage.emptied()
        rate = Rate(left / (monotonic() - began), meter.per(left))
    if (arrived := await stage.routed()) != sizes.messages:
        findings.wrong.append(f"{sizes.messages} published, {arrived} routed")
    return rate


async def _route_bare(stage: Stage, sizes: Sizes) -> Rate:
    await stage.clear()
    await stage.fill_bare(sizes.messages, spread=sizes.spread)
    child = await Child.start("bench.bare_router")
    try:
        await child.ask(BareOrder(do="open", redis_url=stage.broker.redis_url), Nothing)
        meter = CpuMeter(stage.broker.roots, {child.pid: "bare loop"})
        meter.start()
        order = BareOrder(do="run", count=sizes.messages, mailboxes=sizes.spread)
        report = await child.ask(order, BareReport)
        return Rate(sizes.messages / report.seconds, meter.per(sizes.messages))
    finally:
        await child.stop()


def tell_rates(findings: Findings, routed: list[Routed]) -> None:
    """Add the table and the aim of rates."""
    rows: list[list[str | int | float | None]] = []
    for one in routed:
        product, bare = _rate(one.product), _rate(one.bare)
        rows.append(
            [
                one.agents,
                "one router process",
                product,
                product / bare,
                _cpu(one.product, "worker"),
                _cpu(one.product, "valkey"),
            ]
        )
        rows.append(
            [one.agents, "bare loop", bare, 1.0, _cpu(one.bare, "bare loop"), _cpu(one.bare, "valkey")]
        )
    note = "Medians. The bare loop decides nothing, deduplicates nothing and tells no record."
    columns = [
        "agents registered",
        "",
        "messages/s",
        "of the bare loop",
        "CPU us: its process",
        "CPU us: Valkey",
    ]
    findings.tables.append(Table("Routed by one process that only routes", columns, rows, note))
    best = max(_rate(one.product) for one in routed)
    findings.aims.append(Aim("routed by one process", f"{RATE_AIM:,}/s", f"{best:,.0f}/s", best >= RATE_AIM))


def _rate(runs: list[Rate]) -> float:
    return median(one.per_second for one in runs)


def _cpu(runs: list[Rate], part: str) -> float:
    return median(one.cpu_us.get(part, 0.0) for one in runs)


# --- the directory ----------------------------------------------------------------------------------------


async def _load(stage: Stage) -> Loading:
    env = {"REDIS_URL": stage.broker.redis_url, "DATABASE_URL": stage.broker.database_url}
    return msgspec.json.decode(await _output("bench.loading", env=env), type=Loading)


def tell_loading(findings: Findings, loaded: list[Loading]) -> None:
    """Add what loading the directory takes."""
    rows: list[list[str | int | float | None]] = [
        [one.agents, one.seconds, one.cpu_s, one.bytes / 1e6, one.bytes / max(1, one.agents)]
        for one in loaded
    ]
    columns = ["agents", "seconds", "of them CPU", "MB", "bytes an agent"]
    note = (
        "From PostgreSQL into the memory of one process; the memory is that of the process, agents included."
    )
    findings.tables.append(Table("Loading the directory", columns, rows, note))


async def _changes(stage: Stage, count: int, findings: Findings) -> list[float]:
    """Register agents one by one and return how long it took each time, in seconds from before the row was
    written, until every router had sent it what waited for it."""
    seconds = []
    async with AsyncExitStack() as stack:
        for _ in range(SHARDS):
            await stack.enter_async_context(stage.router())
        await _spread(stage)
        for _ in range(count):
            seconds.append(await _change(stage))
    return seconds


async def _spread(stage: Stage) -> None:
    """Wait until every shard is routed by another process. Raises: Stuck."""
    commands = [("GET", Keys(shard).owner("route")) for shard in range(SHARDS)]
    until = monotonic() + PATIENCE_S
    while len(owners_of(await stage.connection.send_many(commands))) < SHARDS:
        if monotonic() > until:
            raise Stuck("the shards are not spread over the routers")
        await asyncio.sleep(LOOK_S)


async def _change(stage: Stage) -> float:
    capability = f"new-{token_hex(4)}"
    waiting = [_for_shard(shard, capability) for shard in range(SHARDS)]
    await stage.publisher.publish_many(waiting)
    signature = Signature((capability,), "task", Lane.NORMAL).key
    parked = [("XLEN", Keys(shard).parked_stream(signature)) for shard in range(SHARDS)]
    await _until(stage, parked, SHARDS)
    now_ms = time_ns() // 1_000_000
    agent = Agent(
        id=new_id(), name=capability, capabilities=(capability,), created_ms=now_ms, updated_ms=now_ms
    )
    key = StoredKey(id=token_hex(8), agent_id=agent.id, scopes=(), hash=b"", prefix="", created_ms=now_ms)
    began = monotonic()
    await agents.register(stage.pool, agent, key)
    await announce(stage.connection, agent.id)
    mailbox = Keys(shard_of(agent.id, SHARDS)).mailbox(agent.id, Lane.NORMAL)
    await _until(stage, [("XLEN", mailbox)], SHARDS)
    return monotonic() - began


async def _until(stage: Stage, lengths: list[tuple[str, str]], wanted: int) -> None:
    """Wait until so many entries lie in these streams. Raises: Stuck."""
    until = monotonic() + PATIENCE_S
    while sum(found := await stage.connection.send_many(lengths)) < wanted:
        if monotonic() > until:
            raise Stuck(f"{wanted} messages expected in {lengths}, found {found}")
        await asyncio.sleep(LOOK_S)


def _for_shard(shard: int, capability: str) -> Envelope:
    """Return a message that this shard's router decides about: without a recipient its id says which."""
    message_id = new_id()
    while shard_of(message_id, SHARDS) != shard:
        message_id = new_id()
    return Envelope(id=message_id, message_type="task", requirements=[capability])


def tell_changes(findings: Findings, seconds: list[float], agents_count: int) -> None:
    """Add how soon changes were known."""
    worst = max(seconds)
    row: list[str | int | float | None] = [
        agents_count,
        SHARDS,
        len(seconds),
        median(seconds) * 1e3,
        worst * 1e3,
    ]
    columns = ["agents", "routers", "changes", "median ms", "longest ms"]
    note = (
        "From before an agent's row is written until every router has sent it the message that waited for it."
    )
    findings.tables.append(Table("A change seen by every router", columns, [row], note))
    findings.aims.append(
        Aim(
            "a change seen by every router",
            f"< {SEEN_AIM_S:.0f} s",
            f"{worst * 1e3:.0f} ms at worst",
            worst < SEEN_AIM_S,
        )
    )


if __name__ == "__main__":
    run("routing", "Routing by capability", main)
