"""Agents heard of again after a silence, written through to the record, so that lists of who is online show
them at once; the keeper writes the others, many at a time.

Whoever came back waits for its row, and those that come back together share a statement: after a network was
away that is everybody, and a transaction each is dearer than all the rest of a heartbeat.
"""

from collections.abc import Sequence
from contextlib import suppress
from typing import Final

from broker.store import agents as stored_agents
from broker.store.pool import Pool
from broker.streams.sharing import Shared
from schema.errors import Unavailable

AT_ONCE: Final = 1
"""Whoever comes back meanwhile shares the next, and two statements never wait for each other's rows."""
APART_S: Final = 0.01
TOGETHER_MAX: Final = 1_000
"""Rows a statement: it holds their locks for a few milliseconds only."""

Comeback = tuple[str, int]
"""An agent, and when it was heard of, in ms."""


class Comebacks:
    """Writes down who came back, for many callers."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._shared = Shared(self._write, apart_s=APART_S, at_once=AT_ONCE, together=TOGETHER_MAX)

    async def note(self, agent_id: str, *, at_ms: int) -> None:
        """Return when it is written, or cannot be: the keeper does it later then."""
        await self._shared.ask((agent_id, at_ms))

    async def _write(self, comebacks: Sequence[Comeback]) -> dict[Comeback, None]:
        with suppress(Unavailable):
            await stored_agents.save_heartbeats(self._pool, dict(comebacks))
        return {}
