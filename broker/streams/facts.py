"""What a Redis says of itself, for the doctor."""

import time
from typing import Any

from broker.core.diagnosis import RedisFacts
from broker.streams.connection import Connection
from broker.streams.keys import DEPLOYMENT
from schema.errors import BrokerError, Unavailable


async def redis_facts(connection: Connection) -> RedisFacts:
    """Ask. Raises: StreamsUnavailable."""
    info = _parsed(await connection.send("INFO"))
    shards = await connection.send("HGET", DEPLOYMENT, "shards")
    asked_ms = time.time_ns() // 1_000_000
    seconds, microseconds = await connection.send("TIME")
    return RedisFacts(
        # Valkey names its own version apart; what it is compatible with stands under the old name.
        version=tuple(int(part) for part in info["redis_version"].split(".") if part.isdigit()),
        role=info["role"],
        is_cluster=info.get("cluster_enabled") == "1",
        appends=info["aof_enabled"] == "1",
        appendfsync=await _configured(connection, "appendfsync"),
        last_append_ok=info.get("aof_last_write_status", "ok") == "ok",
        maxmemory_bytes=int(info["maxmemory"]),
        maxmemory_policy=info["maxmemory_policy"],
        used_bytes=int(info["used_memory"]),
        clock_ahead_ms=int(seconds) * 1_000 + int(microseconds) // 1_000 - asked_ms,
        shards=None if shards is None else int(shards),
    )


async def _configured(connection: Connection, name: str) -> str | None:
    """Return a configuration value; None where the server does not tell (managed ones seldom do)."""
    try:
        reply: list[Any] = await connection.send("CONFIG", "GET", name)  # pairs of bytes
    except Unavailable:
        raise
    except BrokerError:
        return None
    return reply[1].decode() if reply else None


def _parsed(info: bytes) -> dict[str, str]:
    lines = (line.partition(":") for line in info.decode().splitlines() if ":" in line)
    return {name: value for name, _, value in lines}
