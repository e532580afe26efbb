"""Opening a way to Redis, whatever stands there: a single server, or a cluster, which says so itself.

The hot path speaks to Redis only through what this returns. See `calls` for what it can do, `node` for the
connection to one server, `cluster` for how commands find their node.
"""

from broker.streams.calls import Argument, Connection, OnReply, Reply
from broker.streams.cluster import ClusterConnection, enter

__all__ = ("Argument", "Connection", "OnReply", "Reply", "open_connection")


async def open_connection(url: str, *, name: str, key: Argument | None = None) -> Connection:
    """Open a connection, authenticate, choose the database and tell the server our name.

    `url`: redis://, rediss:// or unix://, as redis-py understands them; of a cluster it may name several
    nodes, `host:port` with commas between. `key`: of a cluster, the connection leads to the one node that
    serves this key, fails with it, and is for keys of the same shard only. Without one it leads to all.

    Raises: StreamsUnavailable.
    """
    node, slots = await enter(url, name=name, key=key)
    if slots is None or key is not None:
        return node
    await node.close()
    return ClusterConnection(url, name=name, slots=slots)
