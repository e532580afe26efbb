"""What routers have found to be stopped, for all routers and gateways: full inboxes, and pairs that loop.

One hash with a version beside its entries: who follows asks for the version, and for the rest only when that
moved. Written on unusual paths only, so it is nobody's hot key. An entry for a full inbox counts until some
time, and its router renews it: one whose router died opens by itself.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec
from msgspec import Struct

from broker.core.loops import moments, written
from broker.streams.connection import Reply
from broker.streams.keys import BARRIERS, one_way, root_count
from broker.streams.link import Link
from broker.telemetry import logs
from schema.codec import encode
from schema.trip import Trip

_VERSION: Final = b"v"
_FULL: Final = b"full|"
_TRIP: Final = b"trip|"
_NOTED: Final = b"noted|"
ROOT_MS: Final = 3_600_000
"""A root nobody has sent anything under for this long begins anew."""
_trip: Final = msgspec.json.Decoder(Trip)


class Found(Struct):
    """What is stopped. `full`: agents, and until when (server ms) that counts. `unnoted`: those of the trips
    whose agents have not been told, as far as is known."""

    full: dict[str, int]
    trips: list[Trip]
    unnoted: list[Trip] = []


class BarrierBook:
    """Reads and writes it over a link. Methods raise StreamsUnavailable, and StreamsFull where they write."""

    def __init__(self, link: Link) -> None:
        self._link = link
        self._version: bytes | None = None
        self._was_read = False

    async def read_changed(self) -> Found | None:
        """Return what is stopped, None while nothing has changed since the last call."""
        connection = await self._link.get()
        version: bytes | None = await connection.send("HGET", BARRIERS, _VERSION)
        if self._was_read and version == self._version:
            return None
        found = await self.read()
        self._version, self._was_read = version, True
        return found

    async def read(self) -> Found:
        """Return what is stopped."""
        connection = await self._link.get()
        return _parsed(await connection.send("HGETALL", BARRIERS))

    async def fill(self, full: Mapping[str, int], opened: Iterable[str] = ()) -> None:
        """Note full inboxes, and until when (server ms) that counts, and those that are open again."""
        connection = await self._link.get()
        commands: list[Sequence[str | bytes | int]] = []
        if full:
            pairs = [part for agent, until in full.items() for part in (_FULL + agent.encode(), until)]
            commands.append(("HSET", BARRIERS, *pairs))
        if gone := [_FULL + agent.encode() for agent in opened]:
            commands.append(("HDEL", BARRIERS, *gone))
        if commands:
            # The version last: who sees it moved sees the rest.
            await connection.send_many([*commands, ("HINCRBY", BARRIERS, _VERSION, 1)])

    async def trip(self, trip: Trip) -> bool:
        """Note that a pair loops; tell whether it was not noted already."""
        connection = await self._link.get()
        is_new, _ = await connection.send_many(
            [
                ("HSETNX", BARRIERS, _TRIP + trip.id.encode(), encode(trip)),
                ("HINCRBY", BARRIERS, _VERSION, 1),
            ]
        )
        return bool(is_new)

    async def noted(self, trip: Trip) -> None:
        """Note that both agents of a trip have been told."""
        connection = await self._link.get()
        await connection.send_many(
            [
                ("HSET", BARRIERS, _NOTED + trip.id.encode(), trip.at_ms),
                ("HINCRBY", BARRIERS, _VERSION, 1),
            ]
        )

    async def reset(self, trip_id: str) -> bool:
        """Take a trip away; tell whether it was there."""
        connection = await self._link.get()
        count, _, _ = await connection.send_many(
            [
                ("HDEL", BARRIERS, _TRIP + trip_id.encode()),
                ("HDEL", BARRIERS, _NOTED + trip_id.encode()),
                ("HINCRBY", BARRIERS, _VERSION, 1),
            ]
        )
        return bool(count)

    # --- what routers of different processes have to put together ---------------------------------------

    async def tell_way(
        self, sender: str, recipient: str, moments_ms: Sequence[int], *, for_ms: int
    ) -> list[int]:
        """Leave the moments of one direction for whoever routes the other; return those of the other."""
        connection = await self._link.get()
        _, other = await connection.send_many(
            [
                ("SET", one_way(sender, recipient), written(moments_ms), "PX", for_ms),
                ("GET", one_way(recipient, sender)),
            ]
        )
        return moments(other)

    async def tell_roots(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Add to the counts of roots; return what all have told of them."""
        connection = await self._link.get()
        commands: list[Sequence[str | int]] = [
            ("INCRBY", root_count(root), count) for root, count in counts.items()
        ]
        commands += [("PEXPIRE", root_count(root), ROOT_MS) for root in counts]
        replies = await connection.send_many(commands)
        return dict(zip(counts, replies, strict=False))


def _parsed(reply: Reply) -> Found:
    found = Found({}, [])
    noted: set[tuple[str, int]] = set()
    for name, value in zip(reply[::2], reply[1::2], strict=True):
        try:
            if name.startswith(_FULL):
                found.full[name.removeprefix(_FULL).decode()] = int(value)
            elif name.startswith(_TRIP):
                found.trips.append(_trip.decode(value))
            elif name.startswith(_NOTED):
                noted.add((name.removeprefix(_NOTED).decode(), int(value)))
        except (msgspec.MsgspecError, ValueError):
            # Of another release, or not ours: it must not end every router and gateway there is.
            logs.warning("barriers.unreadable", entry=name.decode(errors="replace"))
    found.unnoted = [trip for trip in found.trips if (trip.id, trip.at_ms) not in noted]
    return found
