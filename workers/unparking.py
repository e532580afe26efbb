"""Parked messages: moved back to the ingress when somebody capable is there.

Looks when agents changed or came back, and now and then in any case. The router then decides anew; what still
finds nobody (an allow-list, say) is parked again, behind the others.
"""

import asyncio
from contextlib import suppress
from typing import Final

import msgspec

from broker.core.directory import Directory
from broker.core.parking import Signature
from broker.streams.clock import ServerClock
from broker.streams.connection import Connection
from broker.streams.keys import Keys
from broker.streams.ownership import Lease
from broker.streams.scripts import UNPARK
from broker.telemetry import metrics
from schema.errors import StreamsFull

BATCH_MAX: Final = 128
LOOK_S: Final = 30.0
_UNPARKED: Final = metrics.MESSAGES.child(stage="route", outcome="unparked")
_signature = msgspec.json.Decoder(Signature)


class Unparking:
    """Watches over the parked messages of one shard."""

    def __init__(
        self, connection: Connection, keys: Keys, lease: Lease, directory: Directory, clock: ServerClock
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._lease = lease
        self._directory = directory
        self._clock = clock
        self._wake = asyncio.Event()

    def wake(self) -> None:
        """Look soon: agents have become available."""
        self._wake.set()

    async def run(self) -> None:
        """Unpark until cancelled. Raises: Fenced, StreamsUnavailable."""
        while True:
            # Redis at its memory limit: they stay where they are until the next look.
            with suppress(StreamsFull):
                await self._look()
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_S):
                    await self._wake.wait()
            self._wake.clear()

    async def _look(self) -> None:
        parked = await self._connection.send("HVALS", self._keys.parked)
        for encoded in parked:
            signature = _signature.decode(encoded)
            # What is parked again meanwhile must not be moved round and round: only what is there now.
            left: int = await self._connection.send("XLEN", self._keys.parked_stream(signature.key))
            if left == 0 or self._somebody_can(signature):
                await self._unpark(signature, left)

    def _somebody_can(self, signature: Signature) -> bool:
        funnel = self._directory.funnel(
            signature.requirements, signature.message_type, None, self._clock.now_ms()
        )
        # Not `accepting` or `allowed`: those depend on the sender, which differs between messages.
        return bool(funnel.heard)

    async def _unpark(self, signature: Signature, left: int) -> None:
        """Move what is parked; where all of it has expired, take the signature off the list."""
        keys = self._keys
        stream = keys.parked_stream(signature.key)
        while True:
            moved: int = await self._connection.evaluate(
                UNPARK,
                (keys.owner("route"), stream, keys.ingress[signature.lane], keys.parked, keys.expiry),
                self._lease.value,
                max(1, min(left, BATCH_MAX)),
                signature.key,
            )
            _UNPARKED.inc(moved)
            left -= moved
            if moved == 0 or left <= 0:
                return
