"""What recording a message costs: CPU time of the recorder and of PostgreSQL, apart from everything else.

Ledger events as the workers write them are decoded, folded and written by the product's own code into an
embedded PostgreSQL of its own, and what the statistics noted is folded by the keeper's. CPU time, so that a
busy machine changes little; compare two states of the code by running this in both, in turn.
"""

import argparse
import random
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import uvloop
from msgspec import UNSET, Raw, Struct, field

from bench.kit.children import stop_on_sigterm
from broker.bench.payload import Fleet, compose
from broker.core.fold import fold
from broker.servers.postgres import EmbeddedPostgres
from broker.store import record, statistics
from broker.store.migrate import migrate
from broker.store.pool import Pool, open_pool
from schema.codec import decode_whole_events as decode_events
from schema.codec import encode
from schema.delivery import Attempt, AttemptStatus
from schema.ids import new_id
from schema.ledger import Event, EventKind
from schema.message import Status
from workers.runtime import freeze

AGENTS: Final = 1_000
SKILLS: Final = 50
FOLDED_AT_ONCE: Final = 40_000
KINDS: Final = ("delivered", "between agents", "pending first")


class Cost(Struct):
    """CPU seconds by who spent them."""

    decode: float = 0.0
    fold: float = 0.0
    write: float = 0.0
    postgres: dict[str, float] = field(default_factory=dict)
    wall: float = 0.0


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--messages", type=int, default=30_000)
    arguments.add_argument("--batch", type=int, nargs="+", default=[500])
    arguments.add_argument("--kind", choices=KINDS, nargs="+", default=list(KINDS))
    arguments.add_argument("--repeat", type=int, default=3)
    arguments.add_argument("--set", nargs="*", default=[], help="settings of PostgreSQL for these sessions")
    given = arguments.parse_args()
    stop_on_sigterm()
    home = Path(tempfile.mkdtemp(prefix="agent-broker-recording-"))
    server = EmbeddedPostgres(home)
    try:
        server.start()
        uvloop.run(measure(server, given))
    finally:
        server.stop("immediate")
        shutil.rmtree(home, ignore_errors=True)
    return 0


async def measure(server: EmbeddedPostgres, given: argparse.Namespace) -> None:
    await migrate(server.url)
    writer = await open_pool(server.url, size=1, application_name="bench-recorder")
    keeper = await open_pool(server.url, size=1, application_name="bench-keeper")
    for name in given.set:
        await writer.execute(f"ALTER SYSTEM SET {name}")
    await writer.execute("SELECT pg_reload_conf()")
    fleet = Fleet(
        agents=[new_id() for _ in range(AGENTS)], skills=[[f"skill_{n}", "research"] for n in range(SKILLS)]
    )
    await replay(server, writer, keeper, list(ledger("delivered", 5_000, 500, fleet)))  # plans, caches, pages
    freeze()
    print(f"{'':<30} decode   fold  write | recorder  keeper  others |  total  wall us/message")
    for _ in range(given.repeat):
        for kind in given.kind:
            for batch in given.batch:
                entries = list(ledger(kind, given.messages, batch, fleet))
                cost = await replay(server, writer, keeper, entries)
                show(f"{kind}, {batch} a batch", cost, given.messages)
    await writer.aclose()
    await keeper.aclose()


def show(what: str, cost: Cost, messages: int) -> None:
    us = 1e6 / messages
    parts = [cost.postgres[name] * us for name in ("recorder", "keeper", "others")]
    print(
        f"{what:<30} {cost.decode * us:6.1f} {cost.fold * us:6.1f} {cost.write * us:6.1f} |"
        f" {parts[0]:8.1f} {parts[1]:7.1f} {parts[2]:7.1f} | {sum(parts):6.1f} {cost.wall * us:6.1f}",
        flush=True,
    )


async def replay(server: EmbeddedPostgres, writer: Pool, keeper: Pool, batches: list[list[bytes]]) -> Cost:
    """Record everything, one batch after the other, then fold what statistics noted."""
    pids = {
        "recorder": await writer.fetch_value("SELECT pg_backend_pid()"),
        "keeper": await keeper.fetch_value("SELECT pg_backend_pid()"),
    }
    await keeper.execute("CHECKPOINT")
    cost, before, began = Cost(), postgres_s(server.pid, pids), time.perf_counter()
    written = 0
    for entries in batches:
        at = time.process_time()
        events = [event for entry in entries for event in decode_events(entry)]
        cost.decode += (now := time.process_time()) - at
        rows = fold(events)
        cost.fold += (after := time.process_time()) - now
        await record.write(writer, rows)
        cost.write += time.process_time() - after
        written += len(rows.messages)
        if written >= FOLDED_AT_ONCE:
            await fold_statistics(keeper)
            written = 0
    cost.wall = time.perf_counter() - began
    await fold_statistics(keeper)
    after_all = postgres_s(server.pid, pids)
    cost.postgres = {name: after_all[name] - before[name] for name in before}
    return cost


async def fold_statistics(pool: Pool) -> None:
    while True:
        folded = await statistics.fold(pool, messages=FOLDED_AT_ONCE, minutes_since_ms=0)
        if folded is None or not folded.deltas:
            return


def postgres_s(postmaster: int, pids: dict[str, int]) -> dict[str, float]:
    """Return CPU seconds of the named sessions and of all other processes of the server."""
    seconds = {name: cpu_s(pid) for name, pid in pids.items()}
    seconds["others"] = sum(cpu_s(pid) for pid in children(postmaster) if pid not in pids.values())
    return seconds


def children(parent: int) -> list[int]:
    return [int(pid) for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split()]


def cpu_s(pid: int) -> float:
    """The time on a CPU, to the nanosecond."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def ledger(kind: str, count: int, batch: int, fleet: Fleet) -> Iterator[list[bytes]]:
    """Yield batches of ledger entries, up to 64 events each."""
    events: list[Event] = []
    for number in range(count):
        events.append(event_of(kind, number, fleet))
        if len(events) == batch or number == count - 1:
            yield entries_of(events)
            if kind == "pending first":
                yield entries_of([settled_later(event) for event in events])
            events = []


def entries_of(events: list[Event]) -> list[bytes]:
    return [encode(events[at : at + 64]) for at in range(0, len(events), 64)]


def event_of(kind: str, number: int, fleet: Fleet) -> Event:
    message = compose(number, time.time_ns(), fleet)
    message.root_id = message.id
    if kind == "between agents":
        message.from_agent_id = random.choice(fleet.agents)
    now_ms = int(time.time() * 1000)
    to = message.to_agent_id or random.choice(fleet.agents)
    route: Raw | object = UNSET
    if message.to_agent_id is None:
        route = Raw(
            encode({"chosen": to, "rule": "lower_score", "score": 0.31, "candidates": 20,
                    "sampled": [{"agent_id": id, "load": 0.1, "score": 0.4} for id in (to, new_id())]})
        )  # fmt: skip
    event = Event(kind=EventKind.SETTLED, id=message.id, at_ms=now_ms + 3, message=Raw(encode(message)),
                  to=to, status=Status.DELIVERED, route=route, attempt=attempt_at(now_ms))  # fmt: skip
    if kind == "pending first":
        event.kind, event.status, event.attempt = EventKind.ROUTED, Status.PENDING, None
        event.mailbox_entry = f"{now_ms}-{number}"
    return event


def settled_later(event: Event) -> Event:
    return Event(kind=EventKind.SETTLED, id=event.id, at_ms=event.at_ms + 200, to=event.to,
                 status=Status.DELIVERED, attempt=attempt_at(event.at_ms))  # fmt: skip


def attempt_at(at_ms: int) -> Attempt:
    return Attempt(number=1, status=AttemptStatus.SUCCESS, attempted_ms=at_ms + 1, duration_ms=2,
                   response_code=200, response_body="")  # fmt: skip


if __name__ == "__main__":
    raise SystemExit(main())
