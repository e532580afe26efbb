"""Leases of live sessions: of those (SSE, WebSocket) an agent opens, at whatever gateway, the newest holds.

A session that lost its lease hears so on the channel SESSIONS, or at its next renewal. Renewing is the
heartbeat of the agents, too: one command per shard for all sessions of a gateway.
"""

import asyncio
from collections import defaultdict
from collections.abc import Mapping
from typing import Final

from broker.streams.connection import Argument
from broker.streams.keys import SESSIONS, Keys
from broker.streams.link import Link
from broker.streams.scripts import ATTEND
from schema.ids import shard_of

LEASE_MS: Final = 5 * 60_000
"""Long, because nobody waits for one to end (a newer session takes it away), and a renewal writes only to one
that is half over. Seven renewals fit into the half that is left."""
BATCH_MAX: Final = 1_000


class Sessions:
    """Takes, renews and releases leases; sessions by agent."""

    def __init__(self, link: Link, *, shards: int) -> None:
        self._link = link
        self._shards = shards
        self._keys = [Keys(shard) for shard in range(shards)]

    async def take(self, agent_id: str, session_id: str) -> None:
        """Make this the agent's session, whoever had one. Raises: StreamsUnavailable."""
        await self._attend("take", {agent_id: session_id})

    async def renew(self, sessions: Mapping[str, str]) -> set[str]:
        """Renew leases (agent -> session); return the agents whose lease is another session's by now.

        Raises: StreamsUnavailable.
        """
        held = await self._attend("renew", sessions)
        return {agent_id for agent_id, is_held in held.items() if not is_held}

    async def release(self, sessions: Mapping[str, str]) -> None:
        """Give leases up, where they are still the sessions'. Raises: StreamsUnavailable."""
        await self._attend("release", sessions)

    async def _attend(self, verb: str, sessions: Mapping[str, str]) -> dict[str, bool]:
        by_shard: dict[int, list[str]] = defaultdict(list)
        for agent_id in sessions:
            by_shard[shard_of(agent_id, self._shards)].append(agent_id)
        connection = await self._link.get()
        held: dict[str, bool] = {}

        async def attend(shard: int, agents: list[str]) -> None:
            keys = self._keys[shard]
            for start in range(0, len(agents), BATCH_MAX):
                batch = agents[start : start + BATCH_MAX]
                leases = [keys.session(agent_id) for agent_id in batch]
                arguments: list[Argument] = [verb, LEASE_MS, SESSIONS]
                for agent_id in batch:
                    arguments += (agent_id, sessions[agent_id])
                reply = await connection.evaluate(ATTEND, (keys.presence, *leases), *arguments)
                held.update(zip(batch, map(bool, reply), strict=True))

        # All are asked, whatever becomes of one: of a cluster, another node may be away.
        outcomes = await asyncio.gather(
            *(attend(shard, agents) for shard, agents in by_shard.items()), return_exceptions=True
        )
        for outcome in outcomes:
            if outcome is not None:
                raise outcome
        return held
