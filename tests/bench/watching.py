"""Memory: what Redis says that its data take, and what the processes of the broker have resident.

Also the clock the broker goes by, and the patience of who waits for something.
"""

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any, Final

from msgspec import Struct

from broker.bench.commits import Stuck
from broker.bench.processes import PROC, read_table, roles_below

SCAN_COUNT: Final = 10_000
SAMPLES: Final = 100
"""Members of a set that are looked at for its size; all of them have the same."""
REST_S: Final = 0.5
REST_LOOKS_MAX: Final = 12
REST_BYTES: Final = 262_144
"""Two looks that differ by less are the same: sessions and leases come and go."""
# Memory Redis counts as used that is not data: buffers of clients and of the append-only file.
_NOT_DATA: Final = ("mem_clients_normal", "mem_aof_buffer", "mem_replication_backlog", "mem_clients_slaves")


class RedisMemory(Struct, frozen=True):
    """Bytes. `data`: what is used without buffers and deduplication. `seen`: deduplication of the last two
    minutes or so, which grows with the rate alone. `resident`: as the system sees the process."""

    data: int
    seen: int
    resident: int


async def redis_memory(redis: Any) -> RedisMemory:  # the driver does not type its replies
    """Return the memory of a Redis now."""
    memory = await redis.info("memory")
    data = memory["used_memory"] - sum(int(memory.get(name, 0)) for name in _NOT_DATA)
    seen = 0
    async for key in redis.scan_iter(match="ab:*:seen:*", count=SCAN_COUNT):
        seen += await redis.memory_usage(key, samples=SAMPLES) or 0
    return RedisMemory(data - seen, seen, memory["used_memory_rss"])


async def redis_memory_at_rest(redis: Any) -> RedisMemory:  # as above
    """Return the memory of a Redis once it no longer changes, or after six seconds."""
    found = await redis_memory(redis)
    for _ in range(REST_LOOKS_MAX):
        await asyncio.sleep(REST_S)
        before, found = found, await redis_memory(redis)
        if abs(found.data - before.data) < REST_BYTES:
            break
    return found


def resident_bytes(roots: Iterable[int]) -> dict[str, int]:
    """Return the resident bytes of the largest process of each part of the broker.

    The largest, not the sum: PostgreSQL's processes share most of what they have.
    """
    table = read_table()
    largest: dict[str, int] = {}
    for root in roots:
        for pid, role in roles_below(table, root).items():
            largest[role] = max(largest.get(role, 0), _resident(PROC / str(pid) / "status"))
    return largest


def _resident(status: Path) -> int:
    with suppress(OSError):
        for line in status.read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) * 1024
    return 0


async def now_ms(redis: Any) -> int:  # the driver does not type its replies
    """Return the clock the broker goes by."""
    seconds, microseconds = await redis.time()
    return int(seconds) * 1000 + int(microseconds) // 1000


def be_patient(since: float, patience_s: float, what: str) -> None:
    """Give up where nothing has come of it since that moment (monotonic). Raises: Stuck."""
    if monotonic() - since > patience_s:
        raise Stuck(what)
