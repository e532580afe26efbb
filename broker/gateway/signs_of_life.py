"""Counts any authenticated call of an agent as a sign of life, without a write per call.

What was heard is noted together, one command per shard, every few seconds; an agent that calls all the time
is noted once per round. Losing a round (Redis away) costs nothing: the next call counts again.
"""

import asyncio
from contextlib import suppress
from typing import Final

from broker.streams.presence import Presence
from schema.errors import Unavailable

ROUND_S: Final = 5.0
"""Small against the 60 s for which an agent shows as online."""
AGENTS_HEARD_MAX: Final = 100_000
"""Agents in one round; more are heard in the next."""


class SignsOfLife:
    """Collects who was heard; `run` until cancelled writes it down."""

    def __init__(self, presence: Presence) -> None:
        self._presence = presence
        self._heard: set[str] = set()

    def hear(self, agent_id: str) -> None:
        """Note that the agent called just now."""
        if len(self._heard) < AGENTS_HEARD_MAX:
            self._heard.add(agent_id)

    def forget(self, agent_id: str) -> None:
        """Leave the agent out: it was noted just now by itself."""
        self._heard.discard(agent_id)

    async def run(self) -> None:
        """Write down what was heard, round by round, until cancelled."""
        while True:
            await asyncio.sleep(ROUND_S)
            await self.write_down()

    async def write_down(self) -> None:
        """Note everyone heard since the last time, at the server's time."""
        heard, self._heard = self._heard, set()
        if not heard:
            return
        with suppress(Unavailable):
            now_ms = await self._presence.now_ms()
            await self._presence.note(dict.fromkeys(heard, now_ms))
