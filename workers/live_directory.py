"""The directory of agents, kept fresh: loaded from Postgres, then changed as the registry stream tells.

Presence is read from Redis every second. Postgres away means the directory stays as it is; word of changes
waits in the registry stream until they can be read.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Final

from msgspec.structs import replace

from broker.core.barriers import NOTHING, Switches
from broker.core.directory import Directory
from broker.store import agents, kill_switches
from broker.store.pool import Pool
from broker.streams.connection import open_connection
from broker.streams.keys import REGISTRY
from broker.streams.presence import Presence
from broker.streams.registry import SWITCHES, RegistryFollower
from broker.telemetry import logs, metrics, readiness
from schema.agent import Agent
from schema.errors import StoreUnavailable, StreamsFull, StreamsUnavailable

PRESENCE_S: Final = 1.0
BLOCK_MS: Final = 2_000
RETRY_S: Final = 0.5
NOTE_MS: Final = 10_000
"""A successful push counts as a sign of life, noted at most this often per agent."""
FETCH_MAX: Final = 500
SEALED_TOLD_MAX: Final = 20
"""Agents with a secret nobody can read that are named in the log; of more the gauge tells how many."""

OnChange = Callable[[str, Agent | None], None]


class LiveDirectory:
    """A directory that follows the registry. `load` once, then `run` until cancelled."""

    def __init__(self, pool: Pool, redis_url: str, presence: Presence, *, silent_after_ms: int) -> None:
        self.directory = Directory(silent_after_ms=silent_after_ms)
        self.on_change: list[OnChange] = []
        """Called for every agent that changed (None: it is gone)."""
        self.on_available: list[Callable[[], None]] = []
        """Called when agents may have become available that were not."""
        self.on_switches: list[Callable[[Switches], None]] = []
        """Called with the kill switches when they may have changed."""
        self.switches = NOTHING
        self._pool = pool
        self._url = redis_url
        self._presence = presence
        self._cursor = "0-0"
        self._refreshing = asyncio.Lock()
        self._presence_ms = 0
        self._read: Mapping[bytes, bytes] = {}
        self._sealed: set[str] = set()
        self._noted: dict[str, int] = {}
        self._signs: dict[str, int] = {}

    async def load(self) -> None:
        """Read all agents; waits for Postgres as long as it takes, and says so: nobody can route without."""
        while True:
            try:
                await self._load()
                readiness.has("postgres")
                readiness.has("redis")
                return
            except (StoreUnavailable, StreamsUnavailable) as error:
                store: readiness.Store = "postgres" if isinstance(error, StoreUnavailable) else "redis"
                readiness.awaits(store, f"no directory of agents yet: {error.message}")
                logs.warning("directory.load_failed", reason=error.message)
                await asyncio.sleep(RETRY_S)

    async def run(self) -> None:
        """Follow changes and presence until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow())
            group.create_task(self._watch_presence())

    async def refresh(self) -> None:
        """Apply every change announced before this call. Raises: StoreUnavailable, StreamsUnavailable."""
        async with (
            self._refreshing,
            await open_connection(self._url, name="directory-refresh", key=REGISTRY) as connection,
        ):
            follower = RegistryFollower(connection)
            follower.cursor = self._cursor
            if await follower.fell_behind():
                await self._load()
                return
            while changed := await follower.read():
                await self._apply(changed)

    def pushed(self, agent_id: str, now_ms: int) -> None:
        """Note a successful push: a sign of life."""
        if now_ms - self._noted.get(agent_id, 0) >= NOTE_MS:
            self._noted[agent_id] = now_ms
            self._signs[agent_id] = now_ms

    async def _load(self) -> None:
        async with await open_connection(self._url, name="directory-load", key=REGISTRY) as connection:
            follower = RegistryFollower(connection)
            await follower.start()
        await self._read_switches()
        found: set[str] = set()
        async for chunk in agents.iterate(self._pool):
            for agent in chunk:
                found.add(agent.id)
                self._take(agent.id, agent)
            # Let leases and deliveries run between chunks of a large directory.
            await asyncio.sleep(0)
        # One registered meanwhile may be dropped here; word of it comes after the cursor and brings it back.
        for agent_id in [agent.id for agent in self.directory.agents() if agent.id not in found]:
            self._take(agent_id, None)
        self._cursor = follower.cursor
        await self._read_presence()
        metrics.AGENTS_KNOWN.child().set(len(self.directory))
        logs.event("directory.loaded", agents=len(found))
        self._available()

    async def _follow(self) -> None:
        while True:
            try:
                async with await open_connection(self._url, name="directory", key=REGISTRY) as connection:
                    follower = RegistryFollower(connection)
                    follower.cursor = self._cursor
                    if await follower.fell_behind():
                        await self._load()
                        continue
                    while True:
                        changed = await follower.read(block_ms=BLOCK_MS)
                        await self._apply(changed)
                        self._cursor = follower.cursor
            except (StoreUnavailable, StreamsUnavailable) as error:
                logs.warning("directory.follow_failed", reason=error.message)
                await asyncio.sleep(RETRY_S)

    async def _apply(self, changed: set[str]) -> None:
        """Read the agents anew and take them over. Applying a change twice is harmless."""
        if SWITCHES in changed:
            await self._read_switches()
        ids = sorted(changed - {SWITCHES})
        for start in range(0, len(ids), FETCH_MAX):
            wanted = ids[start : start + FETCH_MAX]
            found = {agent.id: agent for agent in await agents.fetch(self._pool, wanted)}
            for agent_id in wanted:
                self._take(agent_id, found.get(agent_id))
        if changed:
            metrics.AGENTS_KNOWN.child().set(len(self.directory))
            self._available()

    async def _read_switches(self) -> None:
        """Take over what operators have switched off. What waits for an agent that is, is held: to delivery
        it looks like one that is paused."""
        former, self.switches = self.switches, await kill_switches.in_force(self._pool)
        for listener in self.on_switches:
            listener(self.switches)
        for agent_id in former.agents ^ self.switches.agents:
            agent = self.directory.get(agent_id)
            if agent is not None:
                self._take(agent_id, agent)

    def _take(self, agent_id: str, agent: Agent | None) -> None:
        """Take an agent over as it is now; None: it is gone."""
        self._note_sealed(agent_id, is_sealed=agent is not None and agent.is_sealed)
        if agent is not None and agent.killed is not (agent_id in self.switches.agents):
            agent = replace(agent, killed=not agent.killed)
        if agent is None:
            self.directory.remove(agent_id)
        else:
            self.directory.put(agent)
        for listener in self.on_change:
            listener(agent_id, agent)

    def _note_sealed(self, agent_id: str, *, is_sealed: bool) -> None:
        """Raise the alarm for an agent nothing can be signed for: what is sent to it waits meanwhile."""
        if not is_sealed:
            self._sealed.discard(agent_id)
        elif agent_id not in self._sealed:
            self._sealed.add(agent_id)
            if len(self._sealed) <= SEALED_TOLD_MAX:
                logs.error("agent.secret_sealed", agent=agent_id, reason="no key of SECRETS_KEY opens it")
        metrics.AGENTS_SEALED.child().set(len(self._sealed))

    async def _watch_presence(self) -> None:
        while True:
            await asyncio.sleep(PRESENCE_S)
            with suppress(StreamsUnavailable, StreamsFull):
                signs, self._signs = self._signs, {}
                if signs:
                    await self._presence.note(signs)
                await self._read_presence()

    async def _read_presence(self) -> None:
        now_ms = await self._presence.now_ms()
        heard, self._read = await self._presence.changed_since(self._presence_ms, but=self._read)
        # A second of overlap: scores are the clocks of several hosts' estimates of the server's time.
        self._presence_ms = now_ms - 1_000
        came_back = False
        for agent_id, at_ms in heard.items():
            came_back = self.directory.heard(agent_id, at_ms) or came_back
        self.directory.sweep(now_ms)
        if came_back:
            self._available()

    def _available(self) -> None:
        for listener in self.on_available:
            listener()
