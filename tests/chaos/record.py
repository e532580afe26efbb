"""What is on record: rows of Postgres, and what is left in Redis."""

from typing import Final

import asyncpg
from redis.asyncio import Redis

from chaos.account import Attempt, Row, World

PLACES: Final = ("ingress", "inbox", "ledger", "due", "later", "parked", "chosen", "direct")
"""Where a message can be in Redis; when everything has ended nothing may be left there."""

SHOWN_MAX: Final = 20


async def read_record(world: World, database_url: str) -> None:
    """Read every message and attempt."""
    connection = await asyncpg.connect(database_url)
    try:
        rows = await connection.fetch(
            "SELECT id::text, status, status_reason, to_agent_id::text, message_type, reply_to::text, round"
            " FROM agent_messages"
        )
        attempts = await connection.fetch(
            "SELECT message_id::text, attempt, status, round FROM message_delivery_log"
        )
        names = await connection.fetch("SELECT id::text, name FROM agents")
    finally:
        await connection.close()
    for row in rows:
        world.rows[row["id"]].append(Row(*row))
    for row in attempts:
        world.attempts[row["message_id"]].append(Attempt(row["attempt"], row["status"], row["round"]))
    world.names = {row["id"]: row["name"] for row in names}


async def open_messages(database_url: str, ended: frozenset[str]) -> int:
    """Return how many messages on record have not ended."""
    connection = await asyncpg.connect(database_url)
    try:
        count: int = await connection.fetchval(
            "SELECT count(*) FROM agent_messages WHERE NOT status = ANY($1)", list(ended)
        )
    finally:
        await connection.close()
    return count


async def known(database_url: str, ids: list[str]) -> int:
    """Return how many of these messages are on record."""
    connection = await asyncpg.connect(database_url)
    try:
        count: int = await connection.fetchval(
            "SELECT count(DISTINCT id) FROM agent_messages WHERE id = ANY($1)", ids
        )
    finally:
        await connection.close()
    return count


async def left_in_redis(redis_url: str, shown: dict[str, str] | None = None) -> dict[str, int]:
    """Return the sizes of what still holds messages, by key; `shown` gets the beginning of each."""
    left: dict[str, int] = {}
    async with Redis.from_url(redis_url) as client:
        async for name in client.scan_iter(match="ab:{*}:*", count=1000):
            key = name.decode()
            if key.split("}:", 1)[1].split(":")[0] not in PLACES:
                continue
            some: object = ""
            match await client.type(name):
                case b"none":  # A mailbox that was vacated since the scan met it.
                    continue
                case b"stream":
                    size, some = await client.xlen(name), await client.xrange(name, count=SHOWN_MAX)
                case b"zset":
                    size, some = (
                        await client.zcard(name),
                        await client.zrange(name, 0, SHOWN_MAX, withscores=True),
                    )
                case b"hash":
                    size, some = await client.hlen(name), await client.hscan(name, count=SHOWN_MAX)
                case _:
                    size = 1
            if size:
                left[key] = size
                if shown is not None:
                    shown[key] = repr(some)
    return left
