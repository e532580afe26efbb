"""Finds the id behind an agent reference (UUID or name), with a small cache in front of Postgres.

A name may be given to another agent, so it is believed for a second; a UUID stays who it is, so it is
believed for half a minute: it may have been deleted, which the router notices. "Not there" is never cached:
an agent can be written to as soon as it is registered.
"""

import time
from typing import Final

from broker.store import agents as stored_agents
from broker.store.pool import Pool
from schema.errors import Rejected, StoreUnavailable, UnknownRecipient
from schema.ids import is_id
from schema.limits import AGENT_NAME_CHARS_MAX

NAME_FRESH_S: Final = 1.0
ID_FRESH_S: Final = 30.0
REFERENCES_CACHED_MAX: Final = 50_000
"""Beyond this the whole cache is dropped: the next calls look up again."""


class AgentNames:
    """Resolves references to agents."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._cached: dict[str, tuple[str, float]] = {}

    async def find(self, reference: str) -> str | None:
        """Return the id of the agent; None when there is no such agent. Raises: StoreUnavailable."""
        lowered = reference.lower()
        named_by_id = is_id(lowered)
        key = lowered if named_by_id else reference
        now = time.monotonic()
        cached = self._cached.get(key)
        if cached is not None and cached[1] > now:
            return cached[0]
        if not 0 < len(key) <= AGENT_NAME_CHARS_MAX or "\x00" in key:
            return None
        agent = await stored_agents.get(self._pool, key)
        if agent is None:
            self._cached.pop(key, None)
            return None
        if len(self._cached) >= REFERENCES_CACHED_MAX:
            self._cached.clear()
        self._cached[key] = (agent.id, now + (ID_FRESH_S if named_by_id else NAME_FRESH_S))
        return agent.id

    async def find_or_trust(self, reference: str) -> str | None:
        """Return what `find` does, and a UUID as it is while Postgres is away: publishing goes on meanwhile.

        Raises: StoreUnavailable for a name that cannot be looked up.
        """
        try:
            return await self.find(reference)
        except StoreUnavailable:
            if is_id(reference.lower()):
                return reference.lower()
            raise

    async def sender(self, reference: str) -> str:
        """Return the id an operator sends as. Raises: Rejected when there is none; StoreUnavailable."""
        found = await self.find_or_trust(reference)
        if found is None:
            raise Rejected(f"no agent is known as {reference[:80]!r}", field="from_agent_id")
        return found

    async def recipient(self, reference: str) -> str:
        """Return the id to send to; the router judges it again.

        Raises: UnknownRecipient; StoreUnavailable for a name that cannot be looked up.
        """
        found = await self.find_or_trust(reference)
        if found is None:
            raise UnknownRecipient(f"no agent is known as {reference[:80]!r}", field="to_agent_id")
        return found
