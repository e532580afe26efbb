"""How full Redis is: of a cluster, its fullest node."""

import asyncio

from broker.streams.cluster import ClusterConnection
from broker.streams.connection import Connection
from broker.streams.info import memory_share
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
    return memory_share(await connection.send("INFO", "memory"))
