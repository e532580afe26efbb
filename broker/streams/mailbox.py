"""Mailboxes from outside the worker that owns them: dropping an entry whose message ended elsewhere."""

from broker.streams.keys import Keys
from broker.streams.link import Link
from broker.streams.scripts import DISCARD
from schema.ids import shard_of
from schema.message import Lane


class Mailboxes:
    """Access to mailboxes by agent."""

    def __init__(self, link: Link, *, shards: int) -> None:
        self._link = link
        self._shards = shards
        self._keys = [Keys(shard) for shard in range(shards)]

    async def discard(self, agent_id: str, lane: Lane, entry_id: str) -> bool:
        """Drop the entry of a message that is finished; tell whether it was there. Harmless when repeated.

        Raises: StreamsUnavailable.
        """
        keys = self._keys[shard_of(agent_id, self._shards)]
        connection = await self._link.get()
        count = await connection.evaluate(DISCARD, (keys.mailbox(agent_id, lane), keys.expiry), entry_id)
        return bool(count)
