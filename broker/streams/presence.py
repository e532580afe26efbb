"""Presence: when each agent was last heard of, in one sorted set per shard. Scores are the server's clock."""

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from broker.streams.clock import ServerClock
from broker.streams.keys import Keys
from broker.streams.link import Link
from schema.ids import shard_of

NOTHING: Final[Mapping[bytes, bytes]] = MappingProxyType({})


class Presence:
    """Writes and reads heartbeats."""

    def __init__(self, link: Link, *, shards: int) -> None:
        self._link = link
        self._shards = shards
        self._keys = [Keys(shard).presence for shard in range(shards)]
        self._clock = ServerClock()
        self._measured = False

    async def heartbeat(self, agent_id: str) -> int:
        """Note that the agent is there; return when that was, in ms. Raises: StreamsUnavailable."""
        at_ms = await self.now_ms()
        await self.note({agent_id: at_ms})
        return at_ms

    async def note(self, heard: Mapping[str, int]) -> None:
        """Note heartbeats (agent -> ms) in one command per shard; an older one never replaces a newer one."""
        by_shard: dict[int, list[str | int]] = {}
        for agent_id, at_ms in heard.items():
            by_shard.setdefault(shard_of(agent_id, self._shards), []).extend((at_ms, agent_id))
        connection = await self._link.get()
        await connection.send_many(
            [("ZADD", self._keys[shard], "GT", *pairs) for shard, pairs in by_shard.items()]
        )

    async def renew(self, agent_ids: Iterable[str], *, at_ms: int) -> dict[str, int]:
        """Note that agents are there; return when those that ever were had been heard of before, in ms. Two
        commands per shard. Raises: StreamsUnavailable, StreamsFull."""
        by_shard: dict[int, list[str]] = {}
        for agent_id in agent_ids:
            by_shard.setdefault(shard_of(agent_id, self._shards), []).append(agent_id)
        commands: list[Sequence[str | int]] = []
        for shard, ids in by_shard.items():
            key = self._keys[shard]
            commands.append(("ZMSCORE", key, *ids))
            commands.append(("ZADD", key, "GT", *(part for agent_id in ids for part in (at_ms, agent_id))))
        connection = await self._link.get()
        replies = await connection.send_many(commands)
        return {
            agent_id: int(float(score))
            for ids, scores in zip(by_shard.values(), replies[::2], strict=True)
            for agent_id, score in zip(ids, scores, strict=True)
            if score is not None
        }

    async def changed_since(
        self, since_ms: int, *, but: Mapping[bytes, bytes] = NOTHING
    ) -> tuple[dict[str, int], dict[bytes, bytes]]:
        """Return every agent heard of at or after `since_ms`, with its last heartbeat in ms, without those of
        `but`; and what was read, which is the `but` of who goes on from there.

        Shards whose node of a cluster is away are passed over: nobody can be heard there meanwhile. Raises:
        StreamsUnavailable where none answered.
        """
        connection = await self._link.get()
        replies = await connection.send_each(
            [("ZRANGEBYSCORE", key, since_ms, "+inf", "WITHSCORES") for key in self._keys]
        )
        answered = [reply for reply in replies if not isinstance(reply, BaseException)]
        if not answered:
            raise replies[0]
        read: dict[bytes, bytes] = {}
        for reply in answered:
            read.update(zip(reply[::2], reply[1::2], strict=True))
        # What is read twice is told apart by its bytes: to make sense of it would be most of the work.
        signs = {
            agent.decode(): int(float(score)) for agent, score in read.items() if but.get(agent) != score
        }
        return signs, read

    async def last(self, agent_ids: Iterable[str]) -> dict[str, int]:
        """Return the last heartbeat in ms of those of the agents that ever sent one."""
        wanted = list(agent_ids)
        if not wanted:
            return {}
        connection = await self._link.get()
        scores = await connection.send_many(
            [("ZSCORE", self._keys[shard_of(agent_id, self._shards)], agent_id) for agent_id in wanted]
        )
        found = zip(wanted, scores, strict=True)
        return {agent_id: int(float(score)) for agent_id, score in found if score is not None}

    async def count_online(self, online_ms: int) -> int:
        """Return how many agents were heard of within this time. Raises: StreamsUnavailable."""
        since_ms = await self.now_ms() - online_ms
        connection = await self._link.get()
        counts: list[int] = await connection.send_many(
            [("ZCOUNT", key, since_ms, "+inf") for key in self._keys]
        )
        return sum(counts)

    async def now_ms(self) -> int:
        """Return the server's time."""
        if not self._measured:
            await self._clock.measure(await self._link.get())
            self._measured = True
        return self._clock.now_ms()
