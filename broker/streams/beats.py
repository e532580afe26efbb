"""Heartbeats of one gateway, noted together: those that come within a few milliseconds share two commands a
shard, because a command each is most of what a heartbeat would cost (100,000 agents send 3,333 a second).

Whoever sends one waits for its batch: an answer means that it is noted, as before.
"""

import asyncio
from typing import Final

from msgspec import Struct

from broker.streams.owed import owed
from broker.streams.presence import Presence
from schema.ids import shard_of

LINGER_S: Final = 0.005
"""Nobody minds it, and at 3,000 a second some 15 share a call."""


class Beat(Struct, frozen=True):
    """When an agent was heard of before (0: never, or not lately) and when it is now, in ms."""

    before_ms: int
    at_ms: int


class Beats:
    """Notes heartbeats for many callers. A batch is bounded by the requests a gateway has open."""

    def __init__(self, presence: Presence, *, shards: int) -> None:
        self._presence = presence
        self._shards = shards
        self._waiting: dict[int, dict[str, asyncio.Future[Beat]]] = {}
        """By shard, so that one whose node of a cluster is away takes no other's along."""
        # Not a TaskGroup: a batch outlives the call that began it, and fails only those in it.
        self._tasks: set[asyncio.Task[None]] = set()

    async def beat(self, agent_id: str) -> Beat:
        """Note that the agent is there. Raises: StreamsUnavailable, StreamsFull."""
        loop, shard = asyncio.get_running_loop(), shard_of(agent_id, self._shards)
        batch = self._waiting.get(shard)
        if batch is None:
            batch = self._waiting[shard] = {}
            loop.call_later(LINGER_S, self._send, shard)
        noted = batch.get(agent_id)
        if noted is None:
            noted = batch[agent_id] = loop.create_future()
        # Shielded: a caller that goes away must not take it from another that waits for the same.
        return await asyncio.shield(noted)

    def _send(self, shard: int) -> None:
        task = asyncio.get_running_loop().create_task(self._note(self._waiting.pop(shard)))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _note(self, batch: dict[str, asyncio.Future[Beat]]) -> None:
        with owed(batch.values()):
            at_ms = await self._presence.now_ms()
            before_ms = await self._presence.renew(batch, at_ms=at_ms)
            for agent_id, noted in batch.items():
                noted.set_result(Beat(before_ms.get(agent_id, 0), at_ms))
