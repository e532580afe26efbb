"""Waiting until the receivers have seen what was published."""

import asyncio
from time import monotonic_ns
from typing import Final

from broker.bench.commits import PATIENCE_S, Stuck
from broker.bench.control import Child
from broker.bench.sink import SinkOrder, SinkReport

LOOK_S: Final = 0.02


async def arrival(sink: Child, count: int) -> None:
    """Wait until the sink has seen so many distinct messages. Raises: Stuck, when nothing more arrives."""
    seen, progress_ns = -1, monotonic_ns()
    while True:
        found = await sink.ask(SinkOrder(do="count"), SinkReport)
        if found.distinct >= count:
            return
        if found.distinct != seen:
            seen, progress_ns = found.distinct, monotonic_ns()
        elif monotonic_ns() - progress_ns > PATIENCE_S * 1e9:
            raise Stuck(f"{count} published, {seen} arrived at the sink")
        await asyncio.sleep(LOOK_S)  # another process cannot set our events
