"""Sums up what senders were not told of one by one: one note when the window of a mass failure is over.

Cut off anywhere it is done again: the window ends in the transaction that puts the note into the outbox. The
owner of shard 0 does it for the whole deployment; two at once share the windows.
"""

import asyncio
from typing import Final

from broker.store import bounces
from broker.store.pool import Pool
from broker.telemetry import logs
from schema.errors import StoreUnavailable
from schema.limits import BOUNCE_WINDOW_MS

LOOK_S: Final = 2.0
AT_ONCE_MAX: Final = 100
"""Senders per transaction; the next follows at once where there are more."""


class Bounces:
    """Ends the windows of a deployment."""

    def __init__(self, pool: Pool, *, window_ms: int = BOUNCE_WINDOW_MS) -> None:
        self._pool = pool
        self._window_ms = window_ms

    async def run(self) -> None:
        """Look until cancelled; a store being away only delays it."""
        while True:
            pause_s = LOOK_S
            try:
                if await self.look() == AT_ONCE_MAX:
                    pause_s = 0.0
            except StoreUnavailable as error:
                logs.warning("bounces.put_off", reason=error.message)
            await asyncio.sleep(pause_s)

    async def look(self) -> int:
        """End the windows that are over; return how many. Raises: StoreUnavailable."""
        return await bounces.close_windows(self._pool, window_ms=self._window_ms, limit=AT_ONCE_MAX)
