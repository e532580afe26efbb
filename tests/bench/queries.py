"""Reading: inboxes, work orders and statistics over HTTP with a million and ten million messages on record,
beside the same query without HTTP; and what dropping a day of them does to messages on their way.

One client asks one thing at a time, over HTTP and of the store in turn. The rows are spread over 30 days and
10,000 agents; one inbox holds a tenth of them, another one in 500. What each question reads the server says
itself: that no other load of the machine changes.
"""

import argparse
import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, date, datetime
from time import monotonic, perf_counter, time
from typing import Final

from msgspec import Struct, field
from rich.console import Console

from bench import registering
from bench.filling import DAYS, fill
from bench.kit.broker import Broker, fresh_broker
from bench.kit.numbers import summarise
from bench.kit.program import run
from bench.kit.report import Aim, Findings, Table
from bench.kit.values import Curve
from bench.many_agents import yard_endpoint
from bench.reading import Cost, Noted, cost_of, open_noting_pool
from broker.bench.fleet import path_of
from broker.bench.payload import Fleet
from broker.bench.report import Run
from broker.bench.rig import Rig, open_rig
from broker.bench.tables import Cell
from broker.core.work_orders import Party
from broker.store import dead_letters, inbox, messages, partitions, statistics, work_orders
from broker.store.dead_letters import DeadLetterFilter
from broker.store.inbox import InboxFilter
from broker.store.messages import MessageFilter
from broker.store.pool import Pool, open_pool
from broker.store.work_orders import OrderFilter
from broker.streams.connection import open_connection

INBOX: Final = "/api/v1/messaging/inbox"
ORDERS: Final = "/api/v1/messaging/work-orders"
STATISTICS: Final = "/api/v1/messaging/stats"
MESSAGES: Final = "/api/messages"
DEAD_LETTERS: Final = "/api/dead-letters"
PORTS: Final = 20
TALKING: Final = 100
"""Agents that messages flow to while a day is dropped; they have no part in the rows."""
DEEP_PAGES: Final = 20
PLANNING_CALLS: Final = 6
"""A connection plans a statement anew for its first calls."""
GROWTH_AIM: Final = 2.0
"""An index of ten times the rows is a level deeper: a third page on the way to a row where there were two."""


class Plan(Struct, frozen=True, kw_only=True):
    """Sizes of a run."""

    rows: list[int]
    agents: int
    calls: int
    rate: int
    paced_s: int


class Question(Struct):
    """One thing to ask: as whom and where over HTTP, and the same of the store."""

    name: str
    key: str
    path: Callable[[], str]
    bare: Callable[[], Awaitable[object]]
    over_http_us: list[int] = field(default_factory=list)
    bare_us: list[int] = field(default_factory=list)


class Line:
    """One connection to a gateway that asks for one thing at a time. A client library's own time, which is a
    multiple of these queries', would be all that is seen."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str) -> None:
        self._reader = reader
        self._writer = writer
        self._host = host

    async def get(self, path: str, key: str) -> bytes:
        """Return the body of a 200. Raises: RuntimeError for anything else."""
        self._writer.write(
            f"GET {path} HTTP/1.1\r\nHost: {self._host}\r\nAuthorization: Bearer {key}\r\n\r\n".encode()
        )
        head = await self._reader.readuntil(b"\r\n\r\n")
        size = next(
            int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")
        )
        body = await self._reader.readexactly(size)
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(f"{path}: {head[:40]!r} {body[:300]!r}")
        return body


@asynccontextmanager
async def open_line(host: str) -> AsyncIterator[Line]:
    """Connect, and ask soon: a gateway does not keep a connection that asks for nothing."""
    reader, writer = await asyncio.open_connection(*host.split(":"))
    try:
        yield Line(reader, writer, host)
    finally:
        writer.close()


async def main(args: argparse.Namespace, console: Console) -> Findings:
    plan = _plan(args)
    findings = Findings(
        curves=[Curve("p99", "p99 over HTTP as the record grows", "messages on record", "ms", {})]
    )
    async with AsyncExitStack() as stack:
        retention = {"MESSAGE_RETENTION_DAYS": str(DAYS + 1)}
        broker = await stack.enter_async_context(fresh_broker(env=retention))
        rig = await stack.enter_async_context(open_rig(broker, endpoints=PORTS))
        pool = await open_pool(broker.database_url, size=2, application_name="bench")
        stack.push_async_callback(pool.aclose)
        ids, keys = await _people(stack, broker, rig, pool, plan)
        noted: Noted = []
        noting = await open_noting_pool(broker.database_url, noted)
        stack.push_async_callback(noting.aclose)
        costs: list[dict[str, Cost]] = []
        today = datetime.now(UTC).date()
        for rows in plan.rows:
            began = monotonic()
            days = await fill(broker.database_url, ids, rows=rows, today=today)
            console.print(f"{rows:,} rows in {monotonic() - began:.0f} s", style="dim")
            questions = await _questions(pool, ids, keys)
            async with open_line(broker.api_url.removeprefix("http://")) as line:
                await _ask(line, questions, plan.calls)
            _report(findings, questions, rows)
            looked = await _questions(noting, ids, keys)
            costs.append({one.name: await cost_of(noting, noted, one.bare) for one in looked})
        _report_costs(findings, plan.rows, costs)
        await _drop_a_day(findings, rig, pool, plan, today, min(days))
    return findings


async def _people(
    stack: AsyncExitStack, broker: Broker, rig: Rig, pool: Pool, plan: Plan
) -> tuple[list[str], list[str]]:
    """Register those the rows are about, who pull, and those messages will flow to; return ids and keys."""
    connection = await stack.enter_async_context(await open_connection(broker.redis_url, name="bench"))
    endpoint, now_ms, pepper = yard_endpoint(rig.ports), int(time() * 1000), broker.settings["KEY_PEPPER"]
    talking = registering.make_agents(
        TALKING, name="talking", endpoint=endpoint, capabilities=lambda _: ["talk"], now_ms=now_ms
    )
    quiet = registering.make_agents(
        plan.agents, name="quiet", endpoint=lambda _: None, capabilities=lambda _: [], now_ms=now_ms
    )
    await registering.register_rows(pool, connection, talking, pepper=pepper)
    keys = await registering.register_rows(pool, connection, quiet, pepper=pepper)
    await rig.prepare(
        Fleet(agents=[agent.id for agent in talking], skills=[["talk"]]),
        {path_of(number): agent.signing_secret for number, agent in enumerate(talking)},
    )
    await rig.run_product(200)
    return [agent.id for agent in quiet], keys


async def _questions(pool: Pool, ids: list[str], keys: list[str]) -> list[Question]:
    large, medium = ids[0], ids[1]
    cursors = await _cursors(pool, large)

    def page(agent_id: str, **wanted: object) -> Callable[[], Awaitable[object]]:
        return lambda: _inbox(pool, InboxFilter(agent_id=agent_id, **wanted))  # type: ignore[arg-type]

    def deep() -> str:
        return random.choice(cursors)

    tenth, history = "inbox of a tenth", "history of a busy agent"
    one_type, any_status = page(large, message_type="ping"), page(ids[3], status=None)
    busy, of_busy = ids[3], "of-4"  # as fill_day.sql calls the conversation of the fourth
    sent = MessageFilter(from_agent_id=busy)
    conversation = MessageFilter(conversation_id=of_busy, party=busy)
    dead = DeadLetterFilter(agent_id=busy)
    return [
        Question(f"{tenth}: first page", keys[0], lambda: INBOX, page(large)),
        Question(
            f"{tenth}: a deep page",
            keys[0],
            lambda: f"{INBOX}?cursor={deep()}",
            lambda: _inbox(pool, InboxFilter(agent_id=large, cursor=deep())),
        ),
        Question(f"{tenth}: one type", keys[0], lambda: f"{INBOX}?type=ping", one_type),
        Question("inbox of one in 500: first page", keys[1], lambda: INBOX, page(medium)),
        Question(f"{history}: first page", keys[3], lambda: f"{INBOX}?status=all", any_status),
        Question(
            "sent by an agent: first page",
            keys[3],
            lambda: f"{MESSAGES}?from_agent_id={busy}",
            lambda: messages.list_page(pool, sent),
        ),
        Question(
            "a long conversation: first page",
            keys[3],
            lambda: f"{MESSAGES}?conversation_id={of_busy}",
            lambda: messages.list_page(pool, conversation),
        ),
        Question(
            "dead letters of a busy agent: first page",
            keys[3],
            lambda: DEAD_LETTERS,
            lambda: dead_letters.list_page(pool, dead),
        ),
        Question(
            "work orders of a twentieth, as worker",
            keys[0],
            lambda: f"{ORDERS}?role=worker",
            lambda: work_orders.list_page(pool, OrderFilter(agent_id=large, role=Party.WORKER)),
        ),
        Question("statistics of an agent", keys[0], lambda: STATISTICS, lambda: _statistics(pool, large)),
    ]


async def _inbox(pool: Pool, wanted: InboxFilter) -> None:
    """What the gateway asks the store for a page."""
    now_ms = int(time() * 1000)
    await inbox.page(pool, wanted, now_ms=now_ms)
    await inbox.total(pool, wanted, now_ms=now_ms)


async def _statistics(pool: Pool, agent_id: str) -> None:
    await statistics.read(pool, agent_id, minutes_since_ms=int(time() * 1000) - 3_600_000)
    await statistics.orders_of_agent(pool, agent_id)


async def _cursors(pool: Pool, agent_id: str) -> list[str]:
    """Walk into an inbox; return places in it."""
    cursors: list[str] = []
    while len(cursors) < DEEP_PAGES:
        wanted = InboxFilter(agent_id=agent_id, limit=100, cursor=cursors[-1] if cursors else None)
        found = await inbox.page(pool, wanted, now_ms=int(time() * 1000))
        if found.cursor is None:
            break
        cursors.append(found.cursor)
    return cursors


async def _ask(line: Line, questions: list[Question], calls: int) -> None:
    """Ask everything in turn, over HTTP and of the store."""
    for _ in range(PLANNING_CALLS):
        for question in questions:
            await line.get(question.path(), question.key)
            await question.bare()
    for _ in range(calls):
        for question in questions:
            began = perf_counter()
            await line.get(question.path(), question.key)
            between = perf_counter()
            await question.bare()
            question.over_http_us.append(round((between - began) * 1e6))
            question.bare_us.append(round((perf_counter() - between) * 1e6))


def _report(findings: Findings, questions: list[Question], rows: int) -> None:
    table: list[list[Cell]] = []
    for question in questions:
        http, bare = summarise(question.over_http_us), summarise(question.bare_us)
        table.append([question.name, http.p50_ms, http.p99_ms, bare.p50_ms, bare.p99_ms])
        series = findings.curves[0].series.setdefault(question.name, [])
        series.append((float(rows), http.p99_ms))
    columns = ["", "HTTP p50 ms", "HTTP p99 ms", "query p50 ms", "query p99 ms"]
    note = f"{len(questions[0].over_http_us)} calls of each kind, in turn."
    findings.tables.append(Table(f"{rows:,} messages on record", columns, table, note))


def _report_costs(findings: Findings, rows: list[int], costs: list[dict[str, Cost]]) -> None:
    table: list[list[Cell]] = [
        [name, *(cell for cost in costs for cell in (cost[name].pages, cost[name].rows))] for name in costs[0]
    ]
    columns = ["", *(f"{what} at {count:,}" for count in rows for what in ("pages", "rows"))]
    note = (
        "Pages of tables and indexes a question reads, and rows it looks at, by the dearer of the two plans "
        "the server may choose. Nothing else on the machine changes these."
    )
    findings.tables.append(Table("What each question reads", columns, table, note))
    for cost, count in zip(costs, rows, strict=True):
        findings.wrong += [
            f"{name} goes through {', '.join(sorted(one.scanned))} row by row at {count:,}"
            for name, one in cost.items()
            if one.scanned
        ]
    if len(costs) > 1:
        growth = {name: costs[-1][name].pages / max(1, costs[0][name].pages) for name in costs[0]}
        worst = max(growth, key=growth.__getitem__)
        findings.aims.append(
            Aim(
                f"pages read by a question, {rows[-1]:,} messages on record against {rows[0]:,}",
                f"<= {GROWTH_AIM:g}x",
                f"{growth[worst]:.2f}x at worst ({worst})",
                growth[worst] <= GROWTH_AIM,
            )
        )


async def _drop_a_day(
    findings: Findings, rig: Rig, pool: Pool, plan: Plan, today: date, oldest: date
) -> None:
    """Drop the oldest day, as the keeper does, while messages flow."""
    count = plan.rate * plan.paced_s
    before = await rig.run_product(count, rate=plan.rate)
    took_s = 0.0

    async def drop() -> None:
        nonlocal took_s
        await asyncio.sleep(plan.paced_s / 3)  # somewhere in the middle of the run
        began = monotonic()
        dropped = await partitions.drop_older(pool, today, (today - oldest).days - 1)
        took_s = monotonic() - began
        if not any("agent_messages" in name for name in dropped):
            findings.wrong.append(f"the day was not dropped, only {dropped}")

    async with asyncio.TaskGroup() as group:
        group.create_task(drop())
        during = await rig.run_product(count, rate=plan.rate)
    after = await rig.run_product(count, rate=plan.rate)
    await rig.finish()
    runs = {"before": before, "while a day is dropped": during, "after": after}
    findings.wrong += [f"{run.missing} messages missing {when}" for when, run in runs.items() if run.missing]
    columns = ["", "messages", "p50 ms", "p99 ms", "slowest ms"]
    table = [_paced(when, run) for when, run in runs.items()]
    note = f"Detaching and dropping {plan.rows[-1] // DAYS:,} messages took {took_s:.2f} s."
    findings.tables.append(Table(f"Publish to 200 at {plan.rate:,}/s", columns, table, note))


def _paced(when: str, run: Run) -> list[Cell]:
    assert run.latencies is not None
    return [when, run.messages, run.latencies.p50_ms, run.latencies.p99_ms, run.latencies.max_ms]


def _plan(args: argparse.Namespace) -> Plan:
    if args.quick:
        return Plan(rows=args.rows or [9_000], agents=200, calls=5, rate=200, paced_s=1)
    rows = args.rows or [1_000_000, 10_000_000]
    return Plan(rows=rows, agents=10_000, calls=args.calls, rate=1_000, paced_s=10)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--rows", type=int, action="append", help="messages on record; may be repeated")
    parser.add_argument("--calls", type=int, default=300, help="calls of each kind (default 300)")


if __name__ == "__main__":
    run("queries", "Reading a large record", main, _add_arguments)
