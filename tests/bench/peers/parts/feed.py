"""Publishes the benchmark's messages on the driver's orders; each peer says how by its own library's means.

Orders are JSON lines on stdin, answered on stdout; the end of stdin ends the process. Flat out, a few calls
are under way at a time, each of a batch of messages; paced, what is due leaves, whatever became of what left
before, and a message carries the time it was meant to be sent.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Any

Message = dict[str, Any]
Publish = Callable[[list[Message]], Awaitable[object]]

LINE_BYTES_MAX = 16 * 1024 * 1024
LEAD_NS = 50_000_000
"""The first message of a paced run is due this long after the order, so that it does not begin late."""


async def serve(publish: Publish, *, batch: int, calls: int) -> None:
    """Obey orders until stdin ends: {"agents": [...]} or {"count": n, "rate": messages/s or 0}."""
    reader = asyncio.StreamReader(limit=LINE_BYTES_MAX)
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    agents: list[str] = []
    while line := await reader.readline():
        order = json.loads(line)
        answer: dict[str, Any] = {}
        if "agents" in order:
            agents = order["agents"]
        elif order["rate"]:
            answer = await paced(publish, agents, count=order["count"], rate=order["rate"])
        else:
            answer = await flat_out(publish, agents, count=order["count"], batch=batch, calls=calls)
        print(json.dumps(answer), flush=True)


async def flat_out(
    publish: Publish, agents: list[str], *, count: int, batch: int, calls: int
) -> dict[str, Any]:
    first_ns = time.monotonic_ns()
    starts = iter(range(0, count, batch))

    async def caller() -> None:
        for start in starts:
            sent_ns = time.monotonic_ns()
            await publish([compose(n, sent_ns, agents) for n in range(start, min(start + batch, count))])

    async with asyncio.TaskGroup() as tasks:
        for _ in range(calls):
            tasks.create_task(caller())
    return {"first_ns": first_ns, "last_ns": time.monotonic_ns()}


async def paced(publish: Publish, agents: list[str], *, count: int, rate: int) -> dict[str, Any]:
    first_ns = time.monotonic_ns() + LEAD_NS
    done, late_ns = 0, 0
    async with asyncio.TaskGroup() as tasks:
        while done < count:
            now_ns = time.monotonic_ns()
            due = min(max((now_ns - first_ns) * rate // 1_000_000_000 + 1, 0), count)
            if due > done:
                due_ns = [first_ns + n * 1_000_000_000 // rate for n in range(done, due)]
                late_ns = max(late_ns, now_ns - due_ns[0])
                tasks.create_task(
                    publish([compose(done + n, sent_ns, agents) for n, sent_ns in enumerate(due_ns)])
                )
                done = due
            await asyncio.sleep(0.001)
    return {"first_ns": first_ns, "last_ns": time.monotonic_ns(), "late_ms_max": late_ns / 1e6}


def compose(number: int, sent_ns: int, agents: list[str]) -> Message:
    """Return message `number`: the fields of Agent Broker's envelope, to the next agent."""
    return {
        "id": uuid7(),
        "from_agent_id": None,
        "to_agent_id": agents[number % len(agents)],
        "conversation_id": None,
        "message_type": "task",
        "priority": 5,
        "content": {"sent_ns": sent_ns, "url": "https://example.com/honda"},
        "metadata": {},
        "status": "pending",
        "expires_at": None,
        "created_at": datetime.now(UTC).isoformat(),
        "reply_to": None,
        "root_id": None,
        "hop": 0,
    }


def uuid7() -> str:
    """Return an id that grows with time (RFC 9562): rows are inserted where the index is warm."""
    digits = f"{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"
    variant = f"{8 + int(digits[16], 16) % 4:x}{digits[17:20]}"
    return f"{digits[:8]}-{digits[8:12]}-7{digits[13:16]}-{variant}-{digits[20:]}"
