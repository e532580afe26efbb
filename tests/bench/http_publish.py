"""Publishing over HTTP: requests and messages a second of one gateway process, and what each costs.

    PYTHONPATH=tests python -m bench.http_publish [--quick] [--out DIR]      (about 3 minutes)

Everything is on: agents' keys, limits, contact policies, metrics, `appendfsync always`. Senders are agents
with keys of their own, recipients are agents that pull, so that the rest of the broker routes and records
what was published and pushes nothing. Each rate is measured twice: with the broker's other processes
stopped for the few seconds (SIGSTOP; the gateway has what it would have on a machine with cores to spare,
and what it accepted is routed and recorded afterwards), and with all of them running on the same cores. In
turn with them, in the same run: the web server answering 202 to the same requests, without and with a
shared XADD. At the end every message accepted must be in Postgres.
"""

import argparse
import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from statistics import median
from time import monotonic
from typing import Any, Final
from urllib.parse import urlsplit

import asyncpg
from msgspec import Struct, field
from rich.console import Console

from bench.http_ceiling import CeilingOrder, Listening
from bench.http_load import MARK, HttpOrder, HttpReport
from bench.kit.broker import CpuMeter, fresh_broker
from bench.kit.program import run
from bench.kit.report import Aim, Findings, Table
from broker.bench.control import Child, Nothing
from broker.bench.figures import Latencies, summarise
from broker.bench.processes import read_table, roles_below
from broker.bench.subject import Subject
from broker.bench.tables import Cell
from broker.client.http import AgentClient
from schema.codec import encode

CONNECTIONS: Final = 64
BATCH_CONNECTIONS: Final = 8
BATCH_MESSAGES: Final = 100
RECORDED_PER_S: Final = 500
SENDERS: Final = 16
OTHERS: Final = ("worker", "recorder", "keeper")
STILL_S: Final = 20.0
"""So long not one more row, and what is missing does not come any more."""
REQUESTS_AT_ONCE: Final = 16

COALESCED: Final = "ceiling, coalesced"
SINGLE: Final = "accepted, gateway alone"
BATCHES: Final = "batches of 100, gateway alone"
RECORDED: Final = "recorded, at 500/s"
ROWS: Final = """
SELECT count(*), count(*) FILTER (WHERE status <> 'pending') FROM agent_messages WHERE message_type = 'task'
"""
"""What agents published (notes of the broker are none of it), and what of it has ended: nobody pulls."""
SINGLE_AIM: Final = 12_000
BATCH_AIM: Final = 100_000
RECORDED_AIM_MS: Final = 25.0


class Sizes(Struct):
    """How much is measured. What is accepted while the others are stopped must not outlast their leases."""

    requests: int
    batches: int
    recorded: int
    recipients: int
    repeat: int


FULL: Final = Sizes(requests=20_000, batches=1_000, recorded=5_000, recipients=200, repeat=5)
QUICK: Final = Sizes(requests=500, batches=10, recorded=100, recipients=20, repeat=1)


class Case(Struct):
    """One way of publishing, and the reports of its runs."""

    name: str
    load: Child
    count: int
    messages: int
    stop_others: bool = False
    rate: int = 0
    reports: list[HttpReport] = field(default_factory=list)
    costs: list[dict[str, float]] = field(default_factory=list)

    def per_second(self) -> float:
        """Return the median of the runs, in messages."""
        return median(self.count * self.messages / report.seconds for report in self.reports)

    def cost(self, role: str) -> float:
        """Return the median CPU us per message of one role."""
        return median(cost.get(role, 0.0) for cost in self.costs)

    def latencies(self) -> Latencies:
        """Return the percentiles over all runs."""
        return summarise([us for report in self.reports for us in report.latencies_us])


class Stage:
    """A fresh broker with its agents, the ceiling, and one generator per way."""

    def __init__(self, subject: Subject, sizes: Sizes, stack: AsyncExitStack) -> None:
        self._subject = subject
        self._sizes = sizes
        self._stack = stack
        self.cases: list[Case] = []
        self.accepted = 0
        self._ended = 0
        self.wrong: list[str] = []

    async def prepare(self) -> None:
        """Register agents, start the children."""
        sizes, subject = self._sizes, self._subject
        recipients, keys = await _register(subject, sizes.recipients)
        self._ceiling = await self._child("bench.http_ceiling")
        single_bodies = [_body(recipient, "single") for recipient in recipients]
        recorded_bodies = [_body(recipient, "recorded") for recipient in recipients]
        batches = [_batch(recipients, start) for start in range(0, len(recipients), 10)]
        gateway = _port(subject.api_url)
        ways = {
            way: (await self._listen(way), [("", body) for body in single_bodies])
            for way in ("bare", "coalesced")
        }
        singles = [("?wait=accepted", body) for body in single_bodies]
        single = await self._load(gateway, CONNECTIONS, singles, keys)
        many = await self._load(gateway, BATCH_CONNECTIONS, [("/batch", batch) for batch in batches], keys)
        recorded = await self._load(gateway, CONNECTIONS, [("", body) for body in recorded_bodies], keys)
        for way, (port, requests) in ways.items():
            load = await self._load(port, CONNECTIONS, requests, keys)
            self.cases.append(Case(f"ceiling, {way}", load, sizes.requests, 1, stop_others=True))
        self.cases += (
            Case(SINGLE, single, sizes.requests, 1, stop_others=True),
            Case(BATCHES, many, sizes.batches, BATCH_MESSAGES, stop_others=True),
            Case("accepted, whole broker", single, sizes.requests, 1),
            Case("batches of 100, whole broker", many, sizes.batches, BATCH_MESSAGES),
            Case(RECORDED, recorded, sizes.recorded, 1, rate=RECORDED_PER_S),
        )

    async def measure(self, case: Case) -> None:
        """Run a case once, and wait until what it published is recorded."""
        cpu = CpuMeter(self._subject.roots, {case.load.pid: "load", self._ceiling.pid: "ceiling"})
        with _stopped(self._subject if case.stop_others else None):
            cpu.start()
            order = HttpOrder(do="run", count=case.count, rate=case.rate)
            report = await case.load.ask(order, HttpReport)
            case.costs.append(dict(cpu.per(case.count * case.messages)))
        case.reports.append(report)
        good = sum(count for status, count in report.statuses.items() if status.startswith("2"))
        if good != case.count:
            self.wrong.append(f"{case.name}: {report.statuses}")
        if not case.name.startswith("ceiling"):
            self.accepted += good * case.messages
            await self._recorded(case)

    async def _recorded(self, case: Case) -> None:
        """Wait until everything accepted so far is a row, or no more rows come."""
        database: Any = await asyncpg.connect(self._subject.database_url)  # asyncpg has no types
        try:
            rows, ended, grew = 0, 0, monotonic()
            while rows < self.accepted and monotonic() - grew < STILL_S:
                await asyncio.sleep(0.1)  # another process cannot set our events
                before = rows
                rows, ended = await database.fetchrow(ROWS)
                if rows > before:
                    grew = monotonic()
        finally:
            await database.close()
        if rows != self.accepted:
            self.wrong.append(f"{case.name}: {self.accepted} messages accepted so far, {rows} recorded")
            self.accepted = rows  # what is missing is told once
        if ended > self._ended:
            self.wrong.append(f"{case.name}: {ended - self._ended} messages ended instead of waiting")
            self._ended = ended

    async def _listen(self, way: str) -> int:
        order = CeilingOrder(do="listen", way=way, redis_url=self._subject.redis_url)
        return (await self._ceiling.ask(order, Listening)).port

    async def clear(self) -> None:
        """Drop what the ceiling stored."""
        await self._ceiling.ask(CeilingOrder(do="clear"), Nothing)

    async def _load(
        self, port: int, connections: int, requests: list[tuple[str, bytes]], keys: list[str]
    ) -> Child:
        load = await self._child("bench.http_load")
        prepared = [
            _request(path, body, keys[number % len(keys)]) for number, (path, body) in enumerate(requests)
        ]
        order = HttpOrder(
            do="open",
            host="127.0.0.1",
            port=port,
            connections=min(connections, len(prepared)),
            requests=prepared,
        )
        await load.ask(order, Nothing)
        return load

    async def _child(self, module: str) -> Child:
        child = await Child.start(module)
        self._stack.push_async_callback(child.stop)
        return child


async def main(args: argparse.Namespace, console: Console) -> Findings:
    """Measure every way in turn, as often as the sizes say."""
    sizes = QUICK if args.quick else FULL
    repeat: int = args.repeat or sizes.repeat
    async with AsyncExitStack() as stack:
        subject = await stack.enter_async_context(fresh_broker())
        stage = Stage(subject, sizes, stack)
        await stage.prepare()
        stage.cases = [case for case in stage.cases if any(word in case.name for word in args.only)]
        for turn in range(repeat + 1):
            for case in stage.cases:
                console.print(f"turn {turn} of {repeat}: {case.name}")
                await stage.measure(case)
            await stage.clear()
            if turn == 0:  # warms caches and connections; only its faults count
                for case in stage.cases:
                    case.reports.clear()
                    case.costs.clear()
        return _findings(stage)


def _findings(stage: Stage) -> Findings:
    roles = ["gateway", "ceiling", "valkey", "worker", "recorder", "postgres", "load"]
    columns = ["way", "messages/s", "p50 ms", "p99 ms", *(f"{role} us" for role in roles)]
    rows: list[list[Cell]] = []
    for case in stage.cases:
        latencies = case.latencies()
        costs = [round(case.cost(role), 1) for role in roles]
        rows.append([case.name, round(case.per_second()), latencies.p50_ms, latencies.p99_ms, *costs])
    note = f"CPU us per message of each process; medians of {len(stage.cases[0].reports)} runs in turn"
    by_name = {case.name: case for case in stage.cases}
    notes = [f"{CONNECTIONS} connections ({BATCH_CONNECTIONS} for batches), {SENDERS} keys."]
    if SINGLE in by_name and COALESCED in by_name:
        share = by_name[SINGLE].per_second() / by_name[COALESCED].per_second()
        notes.append(f"One message a request: {share:.2f} of the server that only shares an XADD.")
    return Findings(
        tables=[Table("Publishing over HTTP", columns, rows, note)],
        aims=list(aims_of(by_name)),
        notes=notes,
        wrong=stage.wrong,
    )


def aims_of(by_name: dict[str, Case]) -> Iterator[Aim]:
    """Say which aims were met, of the cases that were measured."""
    for name, wanted in ((SINGLE, SINGLE_AIM), (BATCHES, BATCH_AIM)):
        if name in by_name:
            rate = by_name[name].per_second()
            yield Aim(name, f"{wanted:,}/s", f"{rate:,.0f}/s", rate >= wanted)
    if RECORDED in by_name:
        p50_ms = by_name[RECORDED].latencies().p50_ms
        yield Aim(
            f"{RECORDED}: p50", f"< {RECORDED_AIM_MS:g} ms", f"{p50_ms:.1f} ms", p50_ms < RECORDED_AIM_MS
        )


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeat", type=int, default=0, help="runs of every case")
    parser.add_argument("--only", nargs="+", default=[""], help="cases with one of these words in their name")


@contextmanager
def _stopped(subject: Subject | None) -> Iterator[None]:
    """Stop all processes of a broker but its gateway and its servers, for a moment."""
    pids = _others(subject) if subject is not None else []
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def _others(subject: Subject) -> list[int]:
    table = read_table()
    roles = {pid: role for root in subject.roots for pid, role in roles_below(table, root).items()}
    return [pid for pid, role in roles.items() if role in OTHERS]


async def _register(subject: Subject, recipients: int) -> tuple[list[str], list[str]]:
    """Register recipients that pull, and senders; return the ids of those and the keys of these."""
    gate = asyncio.Semaphore(REQUESTS_AT_ONCE)
    async with AgentClient(subject.api_url, subject.api_key) as client:

        async def one(name: str) -> Any:  # the agent as it was registered
            async with gate:
                return await client.register(name)

        to = await asyncio.gather(*(one(f"recipient-{number}") for number in range(recipients)))
        senders = await asyncio.gather(*(one(f"sender-{number}") for number in range(SENDERS)))
    return [agent.id for agent in to], [agent.api_key for agent in senders]


def _body(recipient: str, way: str) -> bytes:
    """Return a message. Whatever is sent twice says another thing: the same again would be a loop."""
    content = {
        "task_type": "scrape",
        "url": "https://example.com/honda",
        "way": way,
        "number": MARK.decode(),
    }
    return encode({"to_agent_id": recipient, "message_type": "task", "priority": 5, "content": content})


def _batch(recipients: list[str], start: int) -> bytes:
    chosen = (recipients[(start + place) % len(recipients)] for place in range(BATCH_MESSAGES))
    return (
        b"[" + b",".join(_body(one, f"place {place} of a batch") for place, one in enumerate(chosen)) + b"]"
    )


def _request(path: str, body: bytes, key: str) -> str:
    head = (
        f"POST /api/messages{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {key}\r\n"
        f"Accept: */*\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head + body.decode()


def _port(url: str) -> int:
    port = urlsplit(url).port
    assert port is not None
    return port


if __name__ == "__main__":
    run("http_publish", "Publishing over HTTP", main, _add_arguments)
