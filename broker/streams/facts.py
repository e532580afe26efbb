"""What a Redis says of itself, and of a cluster what each node does, for the doctor."""

import asyncio
import time
from typing import Any

from broker.core.diagnosis import ClusterFacts, RedisFacts
from broker.streams.cluster import ClusterConnection
from broker.streams.connection import Connection
from broker.streams.info import parse_info
from broker.streams.keys import DEPLOYMENT
from broker.streams.slots import Address, SlotMap, even_out, slot_of_tag
from schema.errors import BrokerError, StreamsUnavailable, Unavailable


async def redis_facts(connection: Connection, *, shards: int) -> tuple[list[RedisFacts], ClusterFacts | None]:
    """Ask the server, or every primary of a cluster, and that for its shape.

    Raises: StreamsUnavailable; of a cluster where none answers.
    """
    stored = await connection.send("HGET", DEPLOYMENT, "shards")
    fixed = None if stored is None else int(stored)
    if not isinstance(connection, ClusterConnection):
        return [await _facts(connection, "", fixed)], None
    nodes = connection.slots.nodes
    answers = await asyncio.gather(
        # What is fixed for the whole deployment is said once.
        *(_facts(connection.node(node), _name(node), fixed if node == nodes[0] else None) for node in nodes),
        return_exceptions=True,
    )
    facts: list[RedisFacts] = []
    away: list[str] = []
    for node, answer in zip(nodes, answers, strict=True):
        if isinstance(answer, RedisFacts):
            facts.append(answer)
        elif isinstance(answer, StreamsUnavailable):
            away.append(_name(node))
        else:
            raise answer
    return facts, _shape(connection.slots, shards, away)


def _shape(slots: SlotMap, shards: int, away: list[str]) -> ClusterFacts:
    return ClusterFacts(
        shards_by_node={_name(node): count for node, count in slots.shards_by_node(shards).items()},
        moves=tuple(
            f"slot {move.slot} (shard {move.shard}) from {_name(move.source)} to {_name(move.target)}"
            for move in even_out(slots, shards)
        ),
        unserved=tuple(s for s in range(shards) if slots.owner(slot_of_tag(b"%d" % s)) is None),
        away=tuple(away),
    )


async def _facts(connection: Connection, node: str, shards: int | None) -> RedisFacts:
    info = parse_info(await connection.send("INFO"))
    asked_ms = time.time_ns() // 1_000_000
    seconds, microseconds = await connection.send("TIME")
    return RedisFacts(
        node=node,
        # Valkey names its own version apart; what it is compatible with stands under the old name.
        version=tuple(int(part) for part in info["redis_version"].split(".") if part.isdigit()),
        role=info["role"],
        appends=info["aof_enabled"] == "1",
        appendfsync=await _configured(connection, "appendfsync"),
        syncs_in_rewrites=_opposite(await _configured(connection, "no-appendfsync-on-rewrite")),
        last_append_ok=info.get("aof_last_write_status", "ok") == "ok",
        last_rewrite_ok=info.get("aof_last_bgrewrite_status", "ok") == "ok",
        last_save_ok=info.get("rdb_last_bgsave_status", "ok") == "ok",
        clients=int(info["connected_clients"]),
        clients_max=int(info["maxclients"]) if "maxclients" in info else None,
        maxmemory_bytes=int(info["maxmemory"]),
        maxmemory_policy=info["maxmemory_policy"],
        used_bytes=int(info["used_memory"]),
        clock_ahead_ms=int(seconds) * 1_000 + int(microseconds) // 1_000 - asked_ms,
        shards=shards,
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


def _opposite(value: str | None) -> bool | None:
    return None if value is None else value == "no"


def _name(node: Address) -> str:
    return f"{node.host}:{node.port}"
