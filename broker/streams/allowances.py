"""Allowances: how much one agent takes of another in a time, counted for all gateways together."""

from broker.streams.keys import Keys
from broker.streams.link import Link
from broker.streams.scripts import ALLOW
from schema.ids import shard_of


class Allowances:
    """Token buckets in the shard of the recipient; an unused one leaves nothing behind."""

    def __init__(self, link: Link, *, shards: int) -> None:
        self._link = link
        self._shards = shards
        self._keys = [Keys(shard) for shard in range(shards)]

    async def take(self, purpose: str, recipient: str, sender: str, *, count: int, per_ms: int) -> int:
        """Take one of `count` in `per_ms`; return 0, or for how many ms there is none.

        Raises: StreamsUnavailable, StreamsFull.
        """
        key = self._keys[shard_of(recipient, self._shards)].allowance(purpose, recipient, sender)
        connection = await self._link.get()
        return int(await connection.evaluate(ALLOW, (key,), count, per_ms))
