"""The server's clock: times that processes on several hosts compare come from Redis, not from the host.

Of a cluster everybody asks the same node, as long as there is no key in the question (see `cluster`).
"""

import asyncio
import time
from typing import Final

from broker.streams.connection import Connection
from schema.errors import StreamsUnavailable

ANSWER_S: Final = 1.0
"""An answer that took longer would be worth nothing."""


class ServerClock:
    """Estimates the server's time by how long ago it was asked; this host's time of day may be stepped.

    Measured at start and with every `measure`; before that it is this host's.
    """

    def __init__(self) -> None:
        self._offset_ms = int((time.time() - time.monotonic()) * 1000)

    async def measure(self, connection: Connection) -> None:
        """Measure the offset. Raises: StreamsUnavailable."""
        before = time.monotonic()
        try:
            async with asyncio.timeout(ANSWER_S):
                seconds, micros = await connection.send("TIME")
        except TimeoutError:
            raise StreamsUnavailable("no answer in time about the time") from None
        middle_ms = int((before + time.monotonic()) * 500)
        self._offset_ms = int(seconds) * 1000 + int(micros) // 1000 - middle_ms

    def now_ms(self) -> int:
        """Return the estimated server time in ms since the epoch."""
        # As `at`. In whole numbers, which is a third cheaper than a float's way there.
        return time.monotonic_ns() // 1_000_000 + self._offset_ms

    def at(self, monotonic_ms: int) -> int:
        """Return the estimated server time of a moment on this host's monotonic clock."""
        return monotonic_ms + self._offset_ms
