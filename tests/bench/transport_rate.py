"""What a push costs the process that makes it: CPU per message, by how much of the product is in the way.

Three ways to post the same messages to the same sink, in turn, each from one process: a *bare* protocol that
writes and reads (the ceiling: no deadlines, no pool rules, no signature); the *push client* with heads made
beforehand; and the whole *delivery* half of a worker, fed from memory: breaker and quota, signed head, push,
event for the ledger, metrics, settling on a durable Redis. Routing is not in it (see
`routing`), nor is Postgres.

CPU time of this process, so that a busy machine changes less; a minute (`--quick`: seconds).
"""

import argparse
import asyncio
import gc
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from resource import RUSAGE_SELF, getrusage
from typing import Final

from msgspec import Struct
from rich.console import Console

from bench.kit.numbers import median
from bench.kit.program import run
from bench.kit.report import Cell, Findings, Table
from bench.pushing import BarePosts, ClientPosts, DeliveredPosts, Posts, make_messages
from broker.bench.control import Child, Nothing
from broker.bench.sink import Ports, SinkOrder, SinkReport
from broker.servers.valkey import EmbeddedValkey
from broker.transport.signature import new_secret
from schema.agent import Agent
from schema.ids import new_id

PORTS: Final = 200
WARM_UP: Final = 0.1
WAYS: Final = ("bare", "push client", "delivery")


class Cost(Struct):
    """One run of one way: CPU of this process and of the sink per message, and messages a second."""

    us: float
    system_us: float
    sink_us: float
    per_second: float


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the program's own arguments."""
    parser.add_argument("--messages", type=int, default=20_000, help="messages of one run (default 20000)")
    parser.add_argument("--agents", type=int, default=1_000, help="agents they go to (default 1000)")
    parser.add_argument("--repeat", type=int, default=5, help="runs of each way, in turn (default 5)")


async def main(args: argparse.Namespace, console: Console) -> Findings:
    """Measure every way in turn."""
    messages, repeat = (400, 1) if args.quick else (args.messages, args.repeat)
    findings = Findings()
    async with AsyncExitStack() as stack:
        sink = await stack.enter_async_context(_sink())
        agents = await _agents(sink, 20 if args.quick else args.agents)
        ways = await _ways(stack, agents)
        gc.collect()
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)  # as the product's processes do
        costs: dict[str, list[Cost]] = {name: [] for name in WAYS}
        for name in WAYS:
            await _measure(ways[name], sink, agents, max(int(messages * WARM_UP), 100), findings)
        for _ in range(repeat):
            for name in WAYS:
                costs[name].append(await _measure(ways[name], sink, agents, messages, findings))
            shown = "   ".join(f"{name} {costs[name][-1].us:.1f} us" for name in WAYS)
            console.print(shown, style="dim")
    findings.tables = [_table(costs, messages, repeat)]
    return findings


def _table(costs: dict[str, list[Cost]], messages: int, repeat: int) -> Table:
    floor = median([cost.us for cost in costs["bare"]])
    rows: list[list[Cell]] = []
    for name, runs in costs.items():
        us = median([cost.us for cost in runs])
        rows.append(
            [
                name,
                us,
                min(cost.us for cost in runs),
                median([cost.system_us for cost in runs]),
                us - floor,
                median([cost.per_second for cost in runs]),
                median([cost.sink_us for cost in runs]),
            ]
        )
    columns = [
        "way",
        "CPU us a message",
        "lowest",
        "of it in the kernel",
        "above bare",
        "messages/s",
        "sink us",
    ]
    note = f"Medians of {repeat} runs of {messages:,} messages, in turn."
    return Table("One process that pushes", columns, rows, note)


@asynccontextmanager
async def _sink() -> AsyncIterator[Child]:
    sink = await Child.start("broker.bench.sink")
    try:
        yield sink
    finally:
        await sink.stop()


async def _agents(sink: Child, count: int) -> list[Agent]:
    """Make agents whose endpoints share the sink's ports, and tell it their secrets."""
    ports = (await sink.ask(SinkOrder(do="listen", ports=min(PORTS, count)), Ports)).ports
    agents = [
        Agent(
            id=new_id(),
            name=f"agent-{number}",
            endpoint=f"http://127.0.0.1:{ports[number % len(ports)]}/hook/{number}",
            signing_secret=new_secret(),
        )
        for number in range(count)
    ]
    secrets = {f"/hook/{number}": agent.signing_secret for number, agent in enumerate(agents)}
    await sink.ask(SinkOrder(do="secrets", secrets=secrets), Nothing)
    return agents


async def _ways(stack: AsyncExitStack, agents: list[Agent]) -> dict[str, Posts]:
    home = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="agent-broker-pushing-")))
    server = EmbeddedValkey(home)
    await asyncio.to_thread(server.start)
    stack.callback(server.stop)
    return {
        "bare": await stack.enter_async_context(BarePosts.opened(agents)),
        "push client": await stack.enter_async_context(ClientPosts.opened(agents)),
        "delivery": await stack.enter_async_context(DeliveredPosts.opened(agents, server.unix_url)),
    }


async def _measure(posts: Posts, sink: Child, agents: list[Agent], count: int, findings: Findings) -> Cost:
    messages = make_messages(agents, count)
    if isinstance(posts, ClientPosts):
        posts.prepare(messages, now_s=int(time.time()))
    await sink.ask(SinkOrder(do="reset"), Nothing)
    sink_s, began_s, before = _cpu_s(sink.pid), time.perf_counter(), getrusage(RUSAGE_SELF)
    await posts.post(messages)
    after, seconds = getrusage(RUSAGE_SELF), time.perf_counter() - began_s
    report = await sink.ask(SinkOrder(do="report"), SinkReport)
    sink_s = _cpu_s(sink.pid) - sink_s
    forged = report.forged if posts.signs else 0
    if (report.distinct, report.duplicates, forged) != (count, 0, 0):
        findings.wrong.append(
            f"of {count} messages {report.distinct} arrived, {report.duplicates} twice, {forged} forged"
        )
    us = 1e6 / count
    system_us = (after.ru_stime - before.ru_stime) * us
    user_us = (after.ru_utime - before.ru_utime) * us
    return Cost(user_us + system_us, system_us, sink_s * us, count / seconds)


def _cpu_s(pid: int) -> float:
    """Return the time a process was on a CPU, to the nanosecond."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


if __name__ == "__main__":
    run("transport_rate", "What a push costs", main, add_arguments)
