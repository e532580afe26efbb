"""Loads the directory as a router does at its start, in a process of its own, and says what that took.

Reads REDIS_URL and DATABASE_URL; prints one line of JSON.
"""

import gc
import os
import sys
import time

import msgspec
import uvloop

from bench.deciding import resident_bytes
from broker.store.pool import open_pool
from broker.streams.link import Link
from broker.streams.presence import Presence
from schema.limits import SILENT_AFTER_MS
from workers.live_directory import LiveDirectory

SHARDS = 2


class Loading(msgspec.Struct):
    """`bytes`: what the process has grown by."""

    agents: int
    seconds: float
    cpu_s: float
    bytes: int


async def load() -> Loading:
    """Load everything once."""
    url = os.environ["REDIS_URL"]
    link = Link(url, name="bench-loading")
    pool = await open_pool(os.environ["DATABASE_URL"], size=2, application_name="bench")
    live = LiveDirectory(pool, url, Presence(link, shards=SHARDS), silent_after_ms=SILENT_AFTER_MS)
    gc.collect()
    before, cpu_s, began = resident_bytes(), time.process_time(), time.monotonic()
    await live.load()
    found = Loading(
        agents=len(live.directory),
        seconds=time.monotonic() - began,
        cpu_s=time.process_time() - cpu_s,
        bytes=max(0, resident_bytes() - before),
    )
    await link.close()
    await pool.aclose()
    return found


if __name__ == "__main__":
    sys.stdout.write(msgspec.json.encode(uvloop.run(load())).decode() + "\n")
