"""Waiting for something to arrive in an inbox.

A poll registers before it looks, is woken by the word of record (pub/sub, which may lose it), and looks
again; without a word it looks at intervals that double. So nothing that arrives between a look and the wait
after it is missed, and a lost word costs a moment.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import msgspec

from broker.telemetry import logs
from schema import limits
from schema.limits import INBOX_WAITERS_MAX

T = TypeVar("T")

LOOK_FIRST_MS: Final = 500
"""When a poll that heard nothing looks by itself for the first time."""
LOOK_MS_MAX: Final = 8_000
LOOK_AGAIN_MS: Final = 20
"""Between two looks at least: an inbox that gets much of what the poll did not ask for is no reason to look
for every batch of it."""

_agents = msgspec.json.Decoder(list[str])


class Arrivals:
    """The polls of this gateway that wait, by agent."""

    def __init__(self, limit: int = INBOX_WAITERS_MAX) -> None:
        self._limit = limit
        self._waiting: dict[str, set[asyncio.Event]] = {}
        self._count = 0
        self._released = False

    def __len__(self) -> int:
        return self._count

    def on_recorded(self, word: bytes) -> None:
        """Wake whoever waits for one of the agents in a word of record."""
        if not self._waiting:
            return
        try:
            agents = _agents.decode(word)
        except msgspec.MsgspecError:
            logs.warning("inbox.word_unreadable", size_bytes=len(word))
            return
        for agent_id in agents:
            for event in self._waiting.get(agent_id, ()):
                event.set()

    def release_all(self) -> None:
        """Let everybody go, and take no new ones: requests in flight shall end before the process does."""
        self._released = True
        for events in self._waiting.values():
            for event in events:
                event.set()

    async def look(
        self, agent_id: str, look: Callable[[], Awaitable[T]], *, found: Callable[[T], bool], wait_ms: int
    ) -> T:
        """Return what `look` finds, as soon as it is what was wanted (`found`), or at the time-out whatever
        it is. At the limit of waiters, and while the gateway drains, it looks once."""
        if not wait_ms or self._is_full(agent_id) or self._released:
            return await look()
        event = asyncio.Event()
        self._add(agent_id, event)
        try:
            return await self._look(event, look, found, wait_ms)
        finally:
            self._remove(agent_id, event)

    def _is_full(self, agent_id: str) -> bool:
        of_agent = len(self._waiting.get(agent_id, ()))
        return self._count >= self._limit or of_agent >= limits.INBOX_WAITERS_PER_AGENT_MAX

    async def _look(
        self,
        event: asyncio.Event,
        look: Callable[[], Awaitable[T]],
        found: Callable[[T], bool],
        wait_ms: int,
    ) -> T:
        deadline_s, pause_ms = time.monotonic() + wait_ms / 1000, LOOK_FIRST_MS
        while True:
            event.clear()
            seen = await look()
            left_s = deadline_s - time.monotonic()
            if found(seen) or left_s <= 0 or self._released:
                return seen
            await asyncio.sleep(min(LOOK_AGAIN_MS / 1000, left_s))
            if not await _is_set(event, min(pause_ms / 1000, left_s)):
                pause_ms = min(pause_ms * 2, LOOK_MS_MAX)

    def _add(self, agent_id: str, event: asyncio.Event) -> None:
        self._count += 1
        self._waiting.setdefault(agent_id, set()).add(event)

    def _remove(self, agent_id: str, event: asyncio.Event) -> None:
        self._count -= 1
        events = self._waiting[agent_id]
        events.discard(event)
        if not events:
            del self._waiting[agent_id]


async def _is_set(event: asyncio.Event, within_s: float) -> bool:
    try:
        async with asyncio.timeout(within_s):
            return await event.wait()
    except TimeoutError:
        return False
