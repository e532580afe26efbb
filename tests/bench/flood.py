"""A flood by one agent, and what it does to the deliveries of another on the same shard and lane.

A victim gets a few messages a second, pushed to its endpoint; the time is from the moment each was meant to
be sent to the POST. First by itself, then while somebody publishes tens of thousands to an agent that pulls:
through fair lanes, as gateways and the SDK publish, and, for comparison, all through the victim's own lane.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import httpx
import msgspec
from msgspec import Raw, Struct
from rich.console import Console

from bench.kit.broker import Broker, fresh_broker
from bench.kit.program import run
from bench.kit.report import Aim, Findings
from broker.bench.tables import Table
from broker.streams.ingress import Publisher
from schema.ids import new_id
from schema.limits import FAIR_RATE_PER_S
from schema.message import Envelope

NAME: Final = "flood"
TITLE: Final = "A flood by one agent, and the deliveries of another"
RATE_PER_S: Final = 50
SLOWER_MAX: Final = 5.0
"""How much slower the victim's p99 may be than by itself: the flood has to be routed on the same cores."""
SETTINGS: Final = {"SHARDS": "1", "INBOX_MESSAGES_MAX": "0", "INBOX_MB_MAX": "0"}


class Measured(Struct):
    """One phase: the victim's times in ms, and how many of its messages did not come."""

    name: str
    times_ms: list[float]
    missing: int
    flood_s: float = 0.0

    def at(self, share: float) -> float:
        """Return a percentile."""
        times = sorted(self.times_ms)
        return times[min(len(times) - 1, int(share * len(times)))] if times else float("nan")


class Endpoint:
    """The victim's endpoint: notes when each message came."""

    def __init__(self) -> None:
        self.came_s: dict[str, float] = {}

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
                message: Any = msgspec.json.decode(await reader.readexactly(length))
                self.came_s.setdefault(message["id"], time.monotonic())
                writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the broker has hung up
        finally:
            writer.close()


class Stage(Struct):
    """Who takes part."""

    broker: Broker
    endpoint: Endpoint
    ids: dict[str, str]


async def main(args: argparse.Namespace, console: Console) -> Findings:
    """Measure a fresh broker of one shard."""
    count, seconds = (1_000, 0.4) if args.quick else (50_000, 10.0)
    async with _stage() as stage:
        await _phase(stage, "warming up", seconds=min(seconds, 2.0), count=0, fair=0)
        phases = [
            await _phase(stage, "by itself", seconds=seconds, count=0, fair=0),
            await _phase(stage, "flood, fair lanes", seconds=seconds, count=count, fair=FAIR_RATE_PER_S),
            await _phase(stage, "by itself again", seconds=seconds, count=0, fair=0),
            await _phase(stage, "flood, one lane", seconds=seconds, count=count, fair=0),
        ]
    return findings(phases, count)


def findings(phases: list[Measured], count: int) -> Findings:
    """Return the table, and whether the victim kept its pace."""
    rows = [
        [
            phase.name,
            len(phase.times_ms),
            *(round(phase.at(share), 1) for share in (0.5, 0.99, 1.0)),
            round(phase.flood_s, 1),
        ]
        for phase in phases
    ]
    alone, fair = phases[0], phases[1]
    slower = fair.at(0.99) / alone.at(0.99)
    return Findings(
        tables=[
            Table(
                title=f"Publish to POST of the victim, {RATE_PER_S}/s; a flood of {count:,} beside it",
                columns=["phase", "messages", "p50 ms", "p99 ms", "longest ms", "flood s"],
                rows=rows,
            )
        ],
        aims=[
            Aim(
                "p99 of the victim during a flood through fair lanes, by its own without",
                f"{SLOWER_MAX:g}x",
                f"{slower:.1f}x",
                slower <= SLOWER_MAX,
            )
        ],
        notes=["One shard, one worker; victim, flood and broker on the same cores; native publishers."],
        wrong=[f"{phase.name}: {phase.missing} messages missing" for phase in phases if phase.missing],
    )


@asynccontextmanager
async def _stage() -> AsyncIterator[Stage]:
    endpoint = Endpoint()
    server = await asyncio.start_server(endpoint.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        async with fresh_broker(env=SETTINGS) as broker:
            ids = {}
            headers = {"Authorization": f"Bearer {broker.api_key}"}
            async with httpx.AsyncClient(base_url=broker.api_url, headers=headers, trust_env=False) as http:
                for name in ("victim", "writer", "flooder", "flooded"):
                    body: dict[str, Any] = {"name": name}
                    if name == "victim":
                        body["endpoint"] = f"http://127.0.0.1:{port}/"
                    reply = await http.post("/api/agents", json=body)
                    reply.raise_for_status()
                    ids[name] = reply.json()["id"]
            yield Stage(broker, endpoint, ids)
    finally:
        server.close()


async def _phase(stage: Stage, name: str, *, seconds: float, count: int, fair: int) -> Measured:
    """Send to the victim at its pace for so long, and until the flood has been published."""
    publisher = Publisher(stage.broker.redis_url, shards=1, name="victim")
    meant: dict[str, float] = {}
    flooding = asyncio.ensure_future(_flood(stage, count, fair))
    began, sending = time.monotonic(), set()
    try:
        while time.monotonic() - began < seconds or not flooding.done():
            due = began + len(meant) / RATE_PER_S
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            envelope = _message(stage, len(meant))
            meant[envelope.id] = due
            task = asyncio.ensure_future(publisher.publish(envelope))
            sending.add(task)
            task.add_done_callback(sending.discard)
        flood_s = await flooding
        await asyncio.gather(*sending)
        patience = time.monotonic() + 60
        while not meant.keys() <= stage.endpoint.came_s.keys() and time.monotonic() < patience:  # noqa: ASYNC110
            await asyncio.sleep(0.05)  # another process cannot set our events
    finally:
        flooding.cancel()
        await publisher.close()
    came = stage.endpoint.came_s
    times = [(came[one] - due) * 1_000 for one, due in meant.items() if one in came]
    return Measured(name, times, len(meant) - len(times), flood_s)


def _message(stage: Stage, number: int) -> Envelope:
    return Envelope(
        id=new_id(),
        from_agent_id=stage.ids["writer"],
        to_agent_id=stage.ids["victim"],
        content=Raw(b'{"n":%d,"at":%d}' % (number, time.monotonic_ns())),
    )


async def _flood(stage: Stage, count: int, fair: int) -> float:
    """Publish the flood in a process of its own; return how long that took."""
    if not count:
        return 0.0
    began = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "bench.flooding", stage.broker.redis_url),
        *(stage.ids["flooder"], stage.ids["flooded"], str(count), str(fair)),
    )
    if await process.wait():
        raise RuntimeError("the flood has failed")
    return time.monotonic() - began


if __name__ == "__main__":
    run(NAME, TITLE, main)
