"""Takes messages off a stream on the driver's orders: {"count": n} is answered when n are acknowledged."""

import asyncio
import json
import sys
import time
from collections.abc import Awaitable, Callable

Take = Callable[[], Awaitable[int]]


async def serve(take: Take) -> None:
    """Obey orders until stdin ends; `take` takes and acknowledges a batch and returns its size."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), sys.stdin
    )
    while line := await reader.readline():
        wanted = json.loads(line)["count"]
        first_ns = time.monotonic_ns()
        while wanted > 0:
            wanted -= await take()
        print(json.dumps({"first_ns": first_ns, "last_ns": time.monotonic_ns()}), flush=True)
