"""Notes when keys are used, without a write per call: together, every half a minute, and only where that is
news by a minute. Losing a round (Postgres away) costs nothing: the next use counts again."""

import asyncio
from contextlib import suppress
from itertools import islice
from typing import Final

from broker.store import keys as stored_keys
from broker.store.pool import Pool
from schema.errors import DataFault, Unavailable

ROUND_S: Final = 30.0
KEYS_USED_MAX: Final = 20_000
"""Keys in one round; more are noted in the next."""
ROWS_MAX: Final = 1_000
"""Keys in one statement, which locks their rows: who revokes one waits for it."""


class KeyUse:
    """Collects which keys were used; `run` until cancelled writes it down."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool
        self._used_ms: dict[str, int] = {}

    def note(self, key_id: str, *, now_ms: int) -> None:
        """Note that the key was used just now."""
        if key_id in self._used_ms or len(self._used_ms) < KEYS_USED_MAX:
            self._used_ms[key_id] = now_ms

    async def run(self) -> None:
        """Write down what was used, round by round, until cancelled."""
        while True:
            await asyncio.sleep(ROUND_S)
            await self.write_down()

    async def write_down(self) -> None:
        """Note everything used since the last time."""
        used_ms, self._used_ms = self._used_ms, {}
        rest = iter(used_ms.items())
        with suppress(Unavailable, DataFault):
            while some := dict(islice(rest, ROWS_MAX)):
                await stored_keys.note_used(self._pool, some)
