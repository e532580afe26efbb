"""The doorbell: how a router in another process tells a delivery owner which mailboxes to look into, and
whoever ends a message outside the conveyor that it need not be posted.

Only a hint: the active set is the truth, and a sweep of it finds what a lost ring left. While the shard is
routed by this process nobody rings, and there is nothing to sweep for.
"""

import asyncio
from collections.abc import Callable
from typing import Final

from broker.streams.connection import Connection
from broker.streams.keys import Keys
from workers.delivery.delivery import Delivery

BLOCK_MS: Final = 2_000
SWEEP_S: Final = 5.0
ENDED: Final = b"e"
"""The field of a word that an entry has ended elsewhere."""


class Doorbell:
    """Answers the doorbell of one shard."""

    def __init__(
        self, reader: Connection, keys: Keys, delivery: Delivery, *, routed_here: Callable[[], bool]
    ) -> None:
        self._reader = reader
        self._keys = keys
        self._delivery = delivery
        self._routed_here = routed_here

    async def run(self) -> None:
        """Answer until cancelled. Raises: StreamsUnavailable."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen())
            group.create_task(self._sweep())

    async def _listen(self) -> None:
        cursor = "$"
        while True:
            reply = await self._reader.send(
                "XREAD", "COUNT", 256, "BLOCK", BLOCK_MS, "STREAMS", self._keys.doorbell, cursor
            )
            if not reply:
                continue
            entries = reply[0][1]
            cursor = entries[-1][0].decode()
            ended = [fields[1].decode() for _, fields in entries if fields[0] == ENDED]
            rung = [fields[1].decode() for _, fields in entries if fields[0] != ENDED]
            for place in ended:
                self._delivery.drop(place)
            for key in {key for keys in rung for key in keys.split(" ")}:
                self._delivery.ring(key)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            if not self._routed_here():
                await self._delivery.sweep()
