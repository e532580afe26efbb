"""What lies in Redis, by kind of key: nothing of a finished message should.

Kinds are key names without what is particular about them (shard, agent, window), so that two pictures can be
compared.
"""

import re
from typing import Final

from msgspec import Struct
from redis.asyncio import Redis

SCAN_COUNT: Final = 1_000
_PARTICULAR: Final = (
    (re.compile(r"\{\d+\}"), "{s}"),
    (re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"), "<agent>"),
    (re.compile(r"seen:\d+"), "seen:<window>"),
    (re.compile(r"parked:.+"), "parked:<signature>"),
)


class Picture(Struct, kw_only=True):
    """What Redis holds: memory in use as it says itself, and keys and bytes by kind."""

    used_memory: int = 0
    keys: dict[str, int]
    bytes: dict[str, int]


def kind_of(key: str) -> str:
    """Return the kind of a key."""
    for pattern, name in _PARTICULAR:
        key = pattern.sub(name, key)
    return key


async def take_picture(redis: Redis) -> Picture:
    """Look at every key of the broker. For a benchmark's database: it scans."""
    memory = await redis.info("memory")
    picture = Picture(used_memory=memory["used_memory"], keys={}, bytes={})
    async for key in redis.scan_iter(match="ab:*", count=SCAN_COUNT):
        kind = kind_of(key.decode())
        size = await redis.memory_usage(key, samples=0) or 0
        picture.keys[kind] = picture.keys.get(kind, 0) + 1
        picture.bytes[kind] = picture.bytes.get(kind, 0) + size
    return picture


def growth(before: Picture, after: Picture) -> dict[str, int]:
    """Return the bytes each kind has grown by; kinds that did not grow are left out."""
    grown = {kind: size - before.bytes.get(kind, 0) for kind, size in after.bytes.items()}
    return {kind: size for kind, size in sorted(grown.items()) if size > 0}
