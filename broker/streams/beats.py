"""Heartbeats of one gateway, noted together: those that come within a few milliseconds share two commands a
shard, because a command each is most of what a heartbeat would cost.

Whoever sends one waits for its batch: an answer means that it is noted.
"""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct

from broker.streams.presence import Presence
from broker.streams.sharing import Shared
from schema.ids import shard_of

APART_S: Final = 0.005
"""Nobody minds it, and at 3,000 a second some 15 share a call."""
AT_ONCE: Final = 4
"""Calls a shard may wait for: Redis answers when they are on disk."""
TOGETHER_MAX: Final = 1_000


class Beat(Struct, frozen=True):
    """When an agent was heard of before (0: never, or not lately) and when it is now, in ms."""

    before_ms: int
    at_ms: int


class Beats:
    """Notes heartbeats for many callers."""

    def __init__(self, presence: Presence, *, shards: int) -> None:
        self._presence = presence
        # By shard, so that one whose node of a cluster is away takes no other's along.
        self._shards = [
            Shared(self._note, apart_s=APART_S, at_once=AT_ONCE, together=TOGETHER_MAX) for _ in range(shards)
        ]

    async def beat(self, agent_id: str) -> Beat:
        """Note that the agent is there. Raises: StreamsUnavailable, StreamsFull."""
        beat = await self._shards[shard_of(agent_id, len(self._shards))].ask(agent_id)
        assert beat is not None  # each is answered
        return beat

    async def _note(self, agent_ids: Sequence[str]) -> dict[str, Beat]:
        at_ms = await self._presence.now_ms()
        before_ms = await self._presence.renew(agent_ids, at_ms=at_ms)
        return {agent_id: Beat(before_ms.get(agent_id, 0), at_ms) for agent_id in agent_ids}
