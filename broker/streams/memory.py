"""How full Redis is: of a cluster, its fullest node."""

import asyncio

from broker.streams.cluster import ClusterConnection
from broker.streams.connection import Connection
from schema.errors import StreamsUnavailable


async def memory_ratio(connection: Connection) -> float:
    """Return the memory in use by its limit, of the fullest node that answers; without a limit 0.

    Raises: StreamsUnavailable where none answers.
    """
    nodes = [connection]
    if isinstance(connection, ClusterConnection):
        nodes = [connection.node(node) for node in connection.slots.nodes]
    answers = await asyncio.gather(*(_ratio(node) for node in nodes), return_exceptions=True)
    ratios = [answer for answer in answers if isinstance(answer, float)]
    for answer in answers:
        if isinstance(answer, BaseException) and not (isinstance(answer, StreamsUnavailable) and ratios):
            raise answer
    return max(ratios)


async def _ratio(connection: Connection) -> float:
    info: bytes = await connection.send("INFO", "memory")
    facts = dict(line.split(b":", 1) for line in info.splitlines() if b":" in line)
    limit = int(facts[b"maxmemory"])
    return int(facts[b"used_memory"]) / limit if limit else 0.0
