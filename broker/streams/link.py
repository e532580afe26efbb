"""A connection that is opened on first use and opened again after it failed.

For users whose commands may be repeated or whose failure is the caller's to handle (publisher, presence,
gateway), and for those who work on many shards: of a cluster it leads to all nodes. A shard's owner does not
use it: for it a lost connection means its memory may no longer match
Redis, so it starts the shard over.
"""

import asyncio

from broker.streams.connection import Connection, open_connection
from schema.errors import StreamsUnavailable


class Link:
    """A lazily opened, re-opened connection."""

    def __init__(self, url: str, *, name: str) -> None:
        self._url = url
        self._name = name
        self._connection: Connection | None = None
        self._opening = asyncio.Lock()
        self._is_closed = False

    @property
    def connection(self) -> Connection | None:
        """The connection where one is open, for who may not wait."""
        connection = self._connection
        return connection if connection is not None and connection.is_open else None

    async def get(self) -> Connection:
        """Return the open connection, opening one where there is none.

        Raises: StreamsUnavailable; always so after `close`.
        """
        if (connection := self.connection) is not None:
            return connection
        async with self._opening:
            if self._is_closed:
                raise StreamsUnavailable("the link to Redis is closed")
            if self._connection is None or not self._connection.is_open:
                self._connection = await open_connection(self._url, name=self._name)
            return self._connection

    async def close(self) -> None:
        """Close for good."""
        self._is_closed = True
        async with self._opening:
            if self._connection is not None:
                await self._connection.close()
                self._connection = None
