"""Head of line: what fast endpoints notice of slow ones and of black holes that carry half of the traffic;
and what an endpoint notices that comes back to a backlog.

80 fast endpoints alone, then the same messages to them while 10 slow ones (they answer after 10 s) and 10
that never answer get theirs, and, for what merely more traffic does, while 20 that are as fast get as many;
in turns (A B C A B C), each on a fresh broker. Latency is from the time meant to send to the arrival at the
endpoint. Then an endpoint that is down gets a backlog and comes back. About four minutes.
"""

import argparse
import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, nullcontext, suppress
from datetime import UTC, datetime
from enum import Enum
from secrets import token_hex
from typing import Final

from msgspec import Raw, Struct, field
from msgspec.structs import replace
from rich.console import Console

from bench.kit.broker import Broker, fresh_broker
from bench.kit.program import run
from bench.kit.report import Aim, Cell, Findings, Table
from broker.bench.figures import Latencies, summarise
from broker.client.http import AgentClient
from broker.client.streams import StreamPublisher
from schema.ids import new_id
from schema.limits import ENDPOINT_IN_FLIGHT_MAX
from schema.message import Envelope

NAME: Final = "head_of_line"
TITLE: Final = "Head of line: fast endpoints beside slow ones and black holes"
RATIO_MAX: Final = 1.5
SETTLE_S: Final = 10.0
"""Patience with the last fast messages; what has not come by then is missing."""
WORK_S: Final = 0.002
AT_ONCE: Final = {"DRAIN_TIMEOUT_MS": "500"}
"""What the black holes hold is not waited for at the end."""
OK: Final = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
DOWN: Final = b"HTTP/1.1 503 Down\r\nContent-Length: 0\r\n\r\n"


class Beside(Enum):
    """Who else gets messages."""

    NOBODY = "alone"
    OTHERS = "beside the others"
    FAST = "beside as many fast ones"


class Plan(Struct, frozen=True):
    """`fast_per_s` messages a second go to the fast endpoints, `slow_per_s` to the slow ones, and as many as
    to both together to the black holes."""

    fast: int = 80
    slow: int = 10
    holes: int = 10
    fast_per_s: int = 400
    slow_per_s: int = 100
    seconds: float = 20.0
    slow_s: float = 10.0
    repeat: int = 2
    waiting: int = 10_000
    recovery_s: float = 180.0
    retry_scale: float = 1.0


FULL: Final = Plan()
QUICK: Final = Plan(
    fast=8,
    slow=2,
    holes=2,
    fast_per_s=80,
    slow_per_s=20,
    seconds=1,
    slow_s=2,
    repeat=1,
    waiting=200,
    retry_scale=0.02,
)


class Run(Struct):
    """What came of one run: latencies of the fast endpoints, messages of theirs that never came."""

    latencies: Latencies
    missing: int
    others: int
    """Messages sent to the others meanwhile."""


class Recovery(Struct):
    """What came of a backlog: attempts while it was down, requests at a time and messages a second after."""

    waiting: int
    tried_while_down: int
    tried_twice: int
    under_way_max: int
    per_second: float
    missing: int


class Endpoints(Struct):
    """Endpoints in this process. `came`: when messages arrived, by id, in nanoseconds; `attempts`: how often
    each was asked for."""

    port: int = 0
    slow_s: float = 0.0
    work_s: float = 0.0
    """How long an answer takes; without it none would ever be under way beside another."""
    is_down: bool = False
    under_way: int = 0
    under_way_max: int = 0
    came: dict[str, int] = field(default_factory=dict)
    attempts: dict[str, int] = field(default_factory=dict)
    links: set[asyncio.Task[None]] = field(default_factory=set)

    def url(self, manner: str, number: int) -> str:
        return f"http://127.0.0.1:{self.port}/{manner}/{number}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.links.add(task)
        task.add_done_callback(self.links.discard)
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                await reader.readexactly(int(_field(head, b"content-length")))
                self._note(_field(head, b"webhook-id").decode())
                await self._answer(head, writer)
        writer.transport.abort()

    def _note(self, message_id: str) -> None:
        self.attempts[message_id] = self.attempts.get(message_id, 0) + 1
        self.came.setdefault(message_id, time.monotonic_ns())
        self.under_way += 1
        self.under_way_max = max(self.under_way_max, self.under_way)

    async def _answer(self, head: bytes, writer: asyncio.StreamWriter) -> None:
        try:
            if head.startswith(b"POST /hole/"):
                await asyncio.Event().wait()
            if head.startswith(b"POST /slow/"):
                await asyncio.sleep(self.slow_s)
            elif self.work_s:
                await asyncio.sleep(self.work_s)
        finally:
            self.under_way -= 1
        writer.write(DOWN if self.is_down else OK)
        await writer.drain()


async def main(args: argparse.Namespace, console: Console) -> Findings:
    """Measure in turns, then a recovery; a quick run does all of it on one broker."""
    plan = QUICK if args.quick else replace(FULL, repeat=args.repeat, seconds=args.seconds)
    recovering = {**AT_ONCE, "RETRY_TIME_SCALE": str(plan.retry_scale)}
    runs: dict[Beside, list[Run]] = {kind: [] for kind in Beside}
    async with AsyncExitStack() as stack:
        shared = await stack.enter_async_context(fresh_broker(env=recovering)) if args.quick else None
        for number in range(plan.repeat):
            for kind in Beside:
                console.print(f"run {number + 1} of {plan.repeat}, the fast ones {kind.value}", style="dim")
                async with nullcontext(shared) if shared else fresh_broker(env=AT_ONCE) as broker:
                    runs[kind].append(await _head_of_line(broker, plan, kind))
        console.print("a backlog", style="dim")
        async with nullcontext(shared) if shared else fresh_broker(env=recovering) as broker:
            recovery = await _recovery(broker, plan)
    return findings(plan, runs, recovery)


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add what can be chosen: a shared machine is not always free for minutes."""
    parser.add_argument("--repeat", type=int, default=FULL.repeat, help="runs of each kind (default 2)")
    parser.add_argument(
        "--seconds", type=float, default=FULL.seconds, help="of traffic in a run (default 20)"
    )


def findings(plan: Plan, runs: dict[Beside, list[Run]], recovery: Recovery) -> Findings:
    """Return tables, aims and what is wrong. Of several runs the best of each kind count: the machine can
    only make them worse."""
    rows: list[list[Cell]] = [
        [
            kind.value,
            one.others,
            one.latencies.count,
            one.latencies.p50_ms,
            one.latencies.p99_ms,
            one.latencies.max_ms,
        ]
        for kind, of in runs.items()
        for one in of
    ]
    best = {kind: min(one.latencies.p99_ms for one in of) for kind, of in runs.items()}
    ratio = best[Beside.OTHERS] / best[Beside.NOBODY] if best[Beside.NOBODY] else 0.0
    missing = sum(one.missing for of in runs.values() for one in of)
    wrong = [f"{missing} messages to fast endpoints never came"] if missing else []
    if recovery.missing:
        wrong.append(f"{recovery.missing} messages of the backlog never came")
    return Findings(
        tables=[
            Table(
                "Latency of the fast endpoints, milliseconds",
                ["run", "to others", "messages", "p50", "p99", "max"],
                rows,
                note=f"{plan.fast} fast ones at {plan.fast_per_s}/s; beside: {plan.slow} slow ones "
                f"({plan.slow_s:g} s) at {plan.slow_per_s}/s, {plan.holes} black holes at "
                f"{plan.fast_per_s + plan.slow_per_s}/s",
            ),
            Table(
                "An endpoint that comes back to a backlog",
                ["waiting", "requests while down", "messages tried then", "most at a time", "a second"],
                [
                    [
                        recovery.waiting,
                        recovery.tried_while_down,
                        recovery.tried_twice,
                        recovery.under_way_max,
                        recovery.per_second,
                    ]
                ],
            ),
        ],
        aims=[
            Aim(
                "p99 of the fast ones, beside over alone", f"{RATIO_MAX}", f"{ratio:.2f}", ratio <= RATIO_MAX
            ),
            Aim(
                "requests at a time after a recovery",
                str(ENDPOINT_IN_FLIGHT_MAX),
                str(recovery.under_way_max),
                recovery.under_way_max <= ENDPOINT_IN_FLIGHT_MAX,
            ),
        ],
        notes=["Endpoints and publisher run in one process, on the same cores as the broker."],
        wrong=wrong,
    )


@asynccontextmanager
async def _serving(plan: Plan) -> AsyncIterator[Endpoints]:
    endpoints = Endpoints(slow_s=plan.slow_s)
    server = await asyncio.start_server(endpoints.serve, "127.0.0.1", 0, backlog=512)
    endpoints.port = server.sockets[0].getsockname()[1]
    try:
        yield endpoints
    finally:
        server.close()
        for link in endpoints.links:
            link.cancel()
        await asyncio.gather(*endpoints.links, return_exceptions=True)


async def _head_of_line(broker: Broker, plan: Plan, kind: Beside) -> Run:
    async with (
        _serving(plan) as endpoints,
        AgentClient(broker.api_url, broker.api_key) as client,
        await StreamPublisher.open(broker.redis_url) as publisher,
    ):
        fast = await _register(client, endpoints, "fast", plan.fast)
        manners = ("fast", "fast") if kind is Beside.FAST else ("slow", "hole")
        slow = await _register(client, endpoints, manners[0], plan.slow)
        holes = await _register(client, endpoints, manners[1], plan.holes)
        lanes = [(fast, plan.fast_per_s)]
        if kind is not Beside.NOBODY:
            lanes += [(slow, plan.slow_per_s), (holes, plan.fast_per_s + plan.slow_per_s)]
        sent = await asyncio.gather(
            *(_pace(publisher, agents, per_s, plan.seconds) for agents, per_s in lanes)
        )
        meant = sent[0]
        await _until(lambda: meant.keys() <= endpoints.came.keys(), SETTLE_S)
        came = endpoints.came
        latencies = [(came[one] - at) // 1_000 for one, at in meant.items() if one in came]
        return Run(summarise(latencies), len(meant) - len(latencies), sum(map(len, sent[1:])))


async def _recovery(broker: Broker, plan: Plan) -> Recovery:
    async with (
        _serving(plan) as endpoints,
        AgentClient(broker.api_url, broker.api_key) as client,
        await StreamPublisher.open(broker.redis_url) as publisher,
    ):
        endpoints.is_down, endpoints.work_s = True, WORK_S
        [agent] = await _register(client, endpoints, "fast", 1)
        ids = [new_id() for _ in range(plan.waiting)]
        for start in range(0, len(ids), 500):
            await publisher.publish_many([_message(agent, one) for one in ids[start : start + 500]])
        # Five failures open the breaker; the first probes come 5 s and 15 s later.
        await _until(lambda: sum(endpoints.attempts.values()) >= 7, 60)
        while_down, tried = sum(endpoints.attempts.values()), set(endpoints.attempts)
        endpoints.is_down, endpoints.under_way_max = False, 0
        await _until(lambda: sum(endpoints.attempts.values()) > while_down, 60)
        began = time.monotonic()
        await _until(lambda: len(endpoints.came) == len(ids), plan.recovery_s)
        took_s = time.monotonic() - began
        return Recovery(
            waiting=len(ids),
            tried_while_down=while_down,
            tried_twice=len(tried),
            under_way_max=endpoints.under_way_max,
            per_second=len(ids) / took_s,
            missing=len(ids) - len(endpoints.came),
        )


async def _register(client: AgentClient, endpoints: Endpoints, manner: str, count: int) -> list[str]:
    mark = token_hex(3)  # names of a run that was here before are taken
    return [
        (await client.register(f"{manner}-{mark}-{number}", endpoint=endpoints.url(manner, number))).id
        for number in range(count)
    ]


async def _pace(publisher: StreamPublisher, agents: list[str], per_s: int, seconds: float) -> dict[str, int]:
    """Publish at a rate, to the agents in turn; return when each message was meant to go."""
    meant: dict[str, int] = {}
    began = time.monotonic_ns()
    async with asyncio.TaskGroup() as group:
        for number in range(int(per_s * seconds)):
            at = began + number * 1_000_000_000 // per_s
            if (ahead := at - time.monotonic_ns()) > 0:
                await asyncio.sleep(ahead / 1e9)
            envelope = _message(agents[number % len(agents)], new_id())
            meant[envelope.id] = at
            group.create_task(publisher.publish_many([envelope]))
    return meant


def _message(agent: str, message_id: str) -> Envelope:
    content = Raw(b'{"text":"' + b"x" * 200 + b'"}')
    return Envelope(id=message_id, to_agent_id=agent, content=content, created_at=datetime.now(UTC))


async def _until(true: Callable[[], bool], patience_s: float) -> None:
    """Wait until something is so, or for as long as there is patience."""
    ends = time.monotonic() + patience_s
    while not true() and time.monotonic() < ends:  # noqa: ASYNC110  # nothing to wait on
        await asyncio.sleep(0.01)


def _field(head: bytes, name: bytes) -> bytes:
    return head.lower().split(name + b": ")[1].split(b"\r\n")[0]


if __name__ == "__main__":
    run(NAME, TITLE, main, arguments)
