"""Presence of one shard, followed: every sign of life is read once and handed on; who is online is counted,
and whoever has been silent for a week is dropped.

Signs carry times that several hosts estimated, and successful pushes are noted a second later: each look
therefore begins a little before the last one ended, and skips what it has read.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from broker.streams.connection import Connection
from broker.streams.keys import Keys
from schema.limits import PRESENCE_KEPT_MS
from workers.keeping.board import Board
from workers.keeping.comings import Comings
from workers.keeping.heartbeats import Heartbeats
from workers.keeping.signs import Page, agents_of, pages, time_of
from workers.keeping.silence import Silence

LOOK_S: Final = 2.0
OVERLAP_MS: Final = 5_000
"""A sign noted later than this after its time is not stored; the agent's next one is."""
DROP_MS: Final = 10 * 60_000
"""How often the long silent are dropped."""


class PresenceFollower:
    """Follows the presence of one shard."""

    def __init__(
        self,
        keys: Keys,
        heartbeats: Heartbeats,
        silence: Silence,
        comings: Comings,
        *,
        online_ms: int,
        now_ms: Callable[[], int],
        board: Board,
    ) -> None:
        self._shard = keys.shard
        self._key = keys.presence
        self._heartbeats = heartbeats
        self._silence = silence
        self._comings = comings
        self._online_ms = online_ms
        self._now_ms = now_ms
        self._board = board
        self._from_ms = 0
        self._dropped_ms = 0
        self._read: Page = {}

    async def run(self, connection: Connection) -> None:
        """Follow until cancelled. Raises: StreamsUnavailable."""
        while True:
            await self.look(connection)
            await asyncio.sleep(LOOK_S)

    async def look(self, connection: Connection) -> None:
        """Read what is new since the last look. Raises: StreamsUnavailable."""
        now_ms = self._now_ms()
        await self._read_new(connection, now_ms)
        await self._comings.tell(connection, now_ms=now_ms)
        await self._silence.look(connection, now_ms=now_ms)
        # Up to the end: a time a little ahead of our estimate is online as well.
        online = await connection.send("ZCOUNT", self._key, now_ms - self._online_ms, "+inf")
        self._board.show_online(self._shard, online)
        if now_ms - self._dropped_ms >= DROP_MS:
            await connection.send("ZREMRANGEBYSCORE", self._key, "-inf", f"({now_ms - PRESENCE_KEPT_MS}")
            self._dropped_ms = now_ms

    async def _read_new(self, connection: Connection, now_ms: int) -> None:
        """Hand on new signs. Failing midway repeats some, which is harmless."""
        again_ms = max(self._from_ms, now_ms - OVERLAP_MS)
        read: Page = {}
        # A time ahead of ours is read when it has come.
        async for page in pages(connection, self._key, from_ms=self._from_ms, before_ms=now_ms + 1):
            known = self._read
            new = agents_of({member: score for member, score in page.items() if known.get(member) != score})
            self._heartbeats.add(new)
            self._silence.hear(new, now_ms=now_ms)
            self._comings.hear(new, now_ms=now_ms)
            if time_of(next(iter(page.values()))) >= again_ms:
                read |= page
            else:
                read |= {member: score for member, score in page.items() if time_of(score) >= again_ms}
        self._from_ms, self._read = again_ms, read
