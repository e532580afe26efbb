"""`agent-broker bench`: product and ceiling in turns on the same servers, then latency at paced rates.

Order: register, warm both up, then product and ceiling alternately (A B A B), so that a machine whose speed
drifts is as unfair to one as to the other; then a paced run for every rate; then a look at what Redis still
holds.
"""

import argparse
import asyncio
import os
import platform
import signal
import sys
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from secrets import token_hex
from typing import Final

import msgspec
import uvloop
from rich.console import Console

from broker.bench.commits import Stuck
from broker.bench.control import ChildFailed
from broker.bench.fleet import register
from broker.bench.leftovers import growth
from broker.bench.report import Leftovers, Report, Run, show
from broker.bench.rig import Rig, open_rig
from broker.bench.steadiness import look
from broker.bench.subject import Subject, fresh, running
from broker.client.http import AgentClient
from schema.errors import BrokerError

WARM_UP: Final = 0.1
"""Share of the messages that is sent before anything is measured, at least a thousand."""
RATE: Final = 1_000


LOOK_S: Final = 4.0
"""How long the machine alone is looked at before anything is measured on it."""


class Plan(msgspec.Struct, kw_only=True, frozen=True):
    """What is to be run."""

    messages: int
    repeat: int
    rates: list[int]
    seconds: int
    look_s: float = LOOK_S
    agents: int
    endpoints: int


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe the command's arguments."""
    add = parser.add_argument
    add("--fresh", action="store_true", help="start a broker of its own on an empty directory, and end it")
    add("--messages", type=int, default=50_000, help="messages of a flat-out run (default 50000)")
    add("--repeat", type=int, default=3, help="flat-out runs of product and ceiling each (default 3)")
    add(
        "--rate",
        dest="rates",
        type=int,
        action="append",
        metavar="RATE",
        help="messages/s of a paced run, may be given several times; 0: none (default 1000)",
    )
    add("--seconds", type=int, default=10, help="length of a paced run (default 10)")
    add("--agents", type=int, default=1_000, help="agents to register (default 1000)")
    add("--endpoints", type=int, default=200, help="ports they share (default 200)")
    add("--json", type=Path, help="also write everything to this file")
    add("--url", default="", help="the running broker's address (default http://127.0.0.1:8080)")
    add("--data-dir", type=Path, default=None, help="where the running broker keeps its servers and key")


def main(args: argparse.Namespace) -> int:
    """Run the benchmark; return 0, or 1 where something went missing or stood still."""
    console = Console()
    args.rates = [RATE] if args.rates is None else args.rates
    given = {name: getattr(args, name) for name in Plan.__struct_fields__ if hasattr(args, name)}
    plan = msgspec.convert(given, Plan)
    try:
        report = uvloop.run(_until_stopped(_bench(console, plan, args)))
    except (BrokerError, Stuck, ChildFailed) as error:
        console.print(explained(error), style="red", markup=False)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("stopped", style="yellow")
        return 130
    show(report, console)
    if args.json is not None:
        args.json.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=2))
    return 1 if any(run.missing for run in (*report.flat_out, *report.paced)) else 0


def explained(error: Exception) -> str:
    """Return what went wrong, with what the measured broker's log has to say about it."""
    return "\n".join([f"{type(error).__name__}: {error}", *filter(None, getattr(error, "__notes__", []))])


async def _until_stopped(bench: Coroutine[None, None, Report]) -> Report:
    """Let SIGTERM end the benchmark as Ctrl-C does: what was started is stopped on the way out."""
    task = asyncio.ensure_future(bench)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await task


async def _bench(console: Console, plan: Plan, args: argparse.Namespace) -> Report:
    async with AsyncExitStack() as stack:
        if args.fresh:
            console.print("starting a broker on an empty directory", style="dim")
            subject = await stack.enter_async_context(fresh())
        else:
            subject = running(url=args.url, data_dir=args.data_dir)
        return await measure(console, subject, plan)


async def measure(console: Console, subject: Subject, plan: Plan) -> Report:
    """Measure a broker. Raises: BrokerError, Stuck, ChildFailed."""
    async with open_rig(subject, endpoints=plan.endpoints) as rig:
        await _prepare(rig, subject, plan)
        return await _measure(console, rig, plan)


async def _prepare(rig: Rig, subject: Subject, plan: Plan) -> None:
    async with AgentClient(subject.api_url, subject.api_key) as client:
        registered = await register(client, agents=plan.agents, ports=rig.ports, tag=token_hex(3))
    await rig.prepare(registered.fleet, registered.secrets)


async def _measure(console: Console, rig: Rig, plan: Plan) -> Report:
    warm_up = max(1_000, int(plan.messages * WARM_UP))
    steadiness = await look(plan.look_s)
    before = await rig.picture()
    await rig.run_product(warm_up)
    await rig.run_ceiling(warm_up)
    flat_out, ceiling = [], []
    for _ in range(plan.repeat):
        flat_out.append(await rig.run_product(plan.messages))
        ceiling.append(await rig.run_ceiling(plan.messages))
        _tell(console, flat_out[-1], ceiling[-1])
    paced, paced_ceiling = [], []
    for rate in filter(None, plan.rates):
        paced.append(await rig.run_product(rate * plan.seconds, rate=rate))
        paced_ceiling.append(await rig.run_ceiling(rate * plan.seconds, rate=rate))
    await rig.finish()
    after = await rig.picture_at_rest()
    sent = warm_up + sum(run.messages for run in (*flat_out, *paced))
    leftovers = Leftovers(
        used_memory_growth=after.used_memory - before.used_memory,
        messages=sent,
        by_kind=growth(before, after),
    )
    return Report(
        environment=await _environment(rig),
        flat_out=flat_out,
        ceiling=ceiling,
        paced=paced,
        paced_ceiling=paced_ceiling,
        steadiness=steadiness,
        leftovers=leftovers,
    )


def _tell(console: Console, product: Run, ceiling: Run) -> None:
    console.print(f"product {product.per_second:,.0f}/s   ceiling {ceiling.per_second:,.0f}/s", style="dim")


async def _environment(rig: Rig) -> dict[str, str]:
    cores = len(os.sched_getaffinity(0))
    return {
        "cores": str(cores),
        "python": sys.version.split()[0],
        **await rig.versions(),
        "on": platform.platform(),
    }
