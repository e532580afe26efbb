"""The agents a gateway knows: records by id or name, with a cache in front of Postgres.

One query fills both the name and the id. A record is believed for half a minute, and forgotten as soon as the
registry stream says that its agent changed. A name may be given to another agent: while that stream cannot be
followed it is believed for a second only. "Not there" is never cached: an agent can be written to as soon as
it is registered.

Invariant: what was read before a change became known is never cached after it (`_changes` counts them).
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from broker.store import agents as stored_agents
from broker.store.pool import Pool
from broker.streams.connection import open_connection
from broker.streams.keys import REGISTRY
from broker.streams.registry import RegistryFollower
from broker.telemetry import logs
from schema.agent import Agent
from schema.errors import (
    NotFound,
    Rejected,
    StoreUnavailable,
    StreamsFull,
    StreamsUnavailable,
    UnknownRecipient,
)
from schema.ids import is_id
from schema.limits import AGENT_NAME_CHARS_MAX

FRESH_S: Final = 30.0
UNFOLLOWED_NAME_FRESH_S: Final = 1.0
CACHED_MAX: Final = 50_000
"""Beyond this the whole cache is dropped: the next calls look up again."""
TRUST_AFTER_S: Final = 1.0
"""How long Postgres may take over a UUID; then it counts as away, and the router judges the UUID."""
BLOCK_MS: Final = 2_000
RECONNECT_S: Final = 0.5


class KnownAgents:
    """Finds agents by reference (UUID or name). `run` until cancelled, to hear of changes."""

    def __init__(self, pool: Pool, redis_url: str) -> None:
        self._pool = pool
        self._url = redis_url
        self._cached: dict[str, tuple[Agent, float]] = {}
        self._ids: dict[str, str] = {}
        self._changes = 0
        self._told: list[Callable[[str | None], None]] = []
        self._cursor: str | None = None
        self.following = asyncio.Event()
        """Set while changes are heard as they are announced."""

    async def record(self, reference: str) -> Agent | None:
        """Return the agent, at most 30 s old; None when there is none. Raises: StoreUnavailable."""
        key = _key(reference)
        known = self._remembered(key)
        if known is not None:
            return known
        if not 0 < len(key) <= AGENT_NAME_CHARS_MAX or "\x00" in key:
            return None
        changes = self._changes
        agent = await stored_agents.get(self._pool, key)
        if agent is not None and changes == self._changes:
            self._remember(agent)
        return agent

    def remembered(self, reference: str) -> Agent | None:
        """Return the agent where `record` would not have to ask Postgres; None says nothing."""
        entry = self._cached.get(reference)
        if entry is None:
            return self._remembered(_key(reference))
        agent, read_s = entry  # by its id as it is written canonically, as nearly all are
        return agent if time.monotonic() - read_s < FRESH_S else None

    def forget(self, agent_id: str) -> None:
        """Read this agent anew the next time it is asked for."""
        self._changes += 1
        self._cached.pop(agent_id, None)
        for tell in self._told:
            tell(agent_id)

    def on_change(self, tell: Callable[[str | None], None]) -> None:
        """Call `tell` with the id of every agent that changed from now on; None: any may have."""
        self._told.append(tell)

    async def find(self, reference: str) -> str | None:
        """Return the id of the agent; None when there is no such agent. Raises: StoreUnavailable."""
        agent = await self.record(reference)
        return None if agent is None else agent.id

    async def named(self, reference: str) -> str:
        """Return the id of the agent somebody asks about. Raises: NotFound; StoreUnavailable."""
        found = await self.find(reference)
        if found is None:
            raise NotFound(not_known(reference))
        return found

    async def named_if_given(self, reference: str | None) -> str | None:
        """Return what `named` does of a filter that may be left out. Raises: NotFound; StoreUnavailable."""
        return None if reference is None else await self.named(reference)

    async def find_or_trust(self, reference: str) -> str | None:
        """Return what `find` does, and a UUID as it is while Postgres is away: publishing goes on meanwhile.

        Raises: StoreUnavailable for a name that cannot be looked up.
        """
        is_uuid = is_id(reference.lower())
        try:
            async with asyncio.timeout(TRUST_AFTER_S if is_uuid else None):
                return await self.find(reference)
        except (StoreUnavailable, TimeoutError):
            if is_uuid:
                return reference.lower()
            raise

    async def sender(self, reference: str) -> str:
        """Return the id an operator sends as. Raises: Rejected when there is none; StoreUnavailable."""
        found = await self.find_or_trust(reference)
        if found is None:
            raise Rejected(not_known(reference), field="from_agent_id")
        return found

    async def recipient(self, reference: str) -> str:
        """Return the id to send to; the router judges it again.

        Raises: UnknownRecipient; StoreUnavailable for a name that cannot be looked up.
        """
        found = await self.find_or_trust(reference)
        if found is None:
            raise unknown_recipient(reference)
        return found

    async def run(self) -> None:
        """Forget agents as their changes are announced, until cancelled."""
        while True:
            try:
                await self._follow()
            except (StreamsUnavailable, StreamsFull) as error:
                if self.following.is_set():
                    logs.warning("gateway.registry_lost", reason=error.message)
            finally:
                self.following.clear()
            await asyncio.sleep(RECONNECT_S)

    async def _follow(self) -> None:
        async with await open_connection(self._url, name="known-agents", key=REGISTRY) as connection:
            follower = RegistryFollower(connection)
            follower.cursor = self._cursor or "0-0"
            if self._cursor is None or await follower.fell_behind():
                await follower.start()
                self._forget_all()
                self._cursor = follower.cursor
            while changed := await follower.read():
                self._take(follower, changed)
            self.following.set()
            while True:
                self._take(follower, await follower.read(block_ms=BLOCK_MS))

    def _take(self, follower: RegistryFollower, changed: set[str]) -> None:
        for agent_id in changed:
            self.forget(agent_id)
        self._cursor = follower.cursor

    def _forget_all(self) -> None:
        self._changes += 1
        self._cached.clear()
        self._ids.clear()
        for tell in self._told:
            tell(None)

    def _remembered(self, key: str) -> Agent | None:
        """Return the cached agent of this id or name, unless it is too old or called otherwise by now."""
        by_name = key not in self._cached
        entry = self._cached.get(self._ids.get(key, "") if by_name else key)
        if entry is None or (by_name and entry[0].name != key):
            return None
        agent, read_s = entry
        fresh_s = UNFOLLOWED_NAME_FRESH_S if by_name and not self.following.is_set() else FRESH_S
        return agent if time.monotonic() - read_s < fresh_s else None

    def _remember(self, agent: Agent) -> None:
        if len(self._cached) >= CACHED_MAX or len(self._ids) >= CACHED_MAX:
            self._forget_all()
        self._cached[agent.id] = (agent, time.monotonic())
        self._ids[agent.name] = agent.id


def not_known(reference: str) -> str:
    """Say that there is no such agent."""
    return f"no agent is known as {reference[:80]!r}"


def unknown_recipient(reference: str) -> UnknownRecipient:
    """Return what whoever sends to nobody is told."""
    return UnknownRecipient(not_known(reference), field="to_agent_id")


def _key(reference: str) -> str:
    """Return what a reference is remembered under: an id in its canonical form, a name as it is."""
    lowered = reference.lower()
    return lowered if is_id(lowered) else reference
