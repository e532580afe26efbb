"""Between the lanes of native publishers and the broker's own: reading the ones, moving into the others.

Whoever owns the routing of a shard does it, in calls that compare its fencing token.
"""

from collections.abc import Sequence
from typing import Final

from msgspec import Struct, field

from broker.streams.connection import Argument, Connection, Reply
from broker.streams.keys import GatedKeys
from broker.streams.lanes import parted
from broker.streams.ownership import Lease
from broker.streams.scripts import ADMIT
from schema.message import LANES, Lane

READ_ENTRIES_MAX: Final = 64
START: Final = b"0-0"


class Published(Struct, frozen=True):
    """An entry as it was published. `before`: it was there before signatures were required."""

    id: bytes
    fields: list[bytes]
    before: bool = False

    @property
    def messages(self) -> list[bytes]:
        return [one for name, value in self._pairs() if name == b"m" for one in parted(value)]

    def get(self, name: bytes) -> bytes:
        """Return a field; empty where it has none of this name."""
        return next((value for given, value in self._pairs() if given == name), b"")

    def _pairs(self) -> "zip[tuple[bytes, bytes]]":
        return zip(self.fields[::2], self.fields[1::2], strict=True)


class Passage(Struct):
    """What one call moves: the arguments of entries to add, the events of what is set aside, what leaves."""

    added: list[Sequence[bytes]] = field(default_factory=list)
    events: list[bytes] = field(default_factory=list)
    leaving: list[bytes] = field(default_factory=list)


class Lanes:
    """Both kinds of lanes of one shard. `connection` may be one that blocks."""

    def __init__(self, connection: Connection, shard: int, lease: Lease) -> None:
        self._connection = connection
        self._keys = GatedKeys(shard)
        self._lease = lease
        self._lane_of = {key.encode(): lane for lane, key in self._keys.published.items()}
        self._cursors = dict.fromkeys(LANES, START)
        self._before = dict.fromkeys(LANES, (0, 0))

    def published(self, lane: Lane) -> str:
        """Return the name of a lane of native publishers."""
        return self._keys.published[lane]

    async def close_gate(self) -> None:
        """Note, where that is not noted yet, what was published before signatures were required.

        Raises: BrokerError.
        """
        keys, connection = self._keys, self._connection
        last = await connection.send_many(
            [("XREVRANGE", keys.published[lane], "+", "-", "COUNT", 1) for lane in LANES]
        )
        *_, noted = await connection.send_many(
            (
                *(
                    ("HSETNX", keys.signed, lane.value, entries[0][0] if entries else START)
                    for lane, entries in zip(LANES, last, strict=True)
                ),
                ("HMGET", keys.signed, *(lane.value for lane in LANES)),
            )
        )
        self._before = {lane: _moment(entry) for lane, entry in zip(LANES, noted, strict=True)}

    async def open_gate(self) -> None:
        """Note that no signatures are required. Raises: BrokerError."""
        await self._connection.send("DEL", self._keys.signed)

    async def read(self, *, block_ms: int) -> dict[Lane, list[Published]]:
        """Return what comes next in each lane of native publishers. Raises: BrokerError."""
        reply: Reply = await self._connection.send(
            *("XREAD", "COUNT", READ_ENTRIES_MAX, "BLOCK", block_ms, "STREAMS"),
            *self._keys.published.values(),
            *self._cursors.values(),
        )
        found = {}
        for stream, entries in reply or ():
            lane = self._lane_of[stream]
            self._cursors[lane] = entries[-1][0]
            found[lane] = [
                Published(entry, fields, _moment(entry) <= self._before[lane]) for entry, fields in entries
            ]
        return found

    def read_again(self) -> None:
        """Read from the start next time: what is still there."""
        self._cursors = dict.fromkeys(LANES, START)

    async def admit(self, lane: Lane, passage: Passage) -> None:
        """Move a batch of native publishers' entries. Raises: Fenced, StreamsFull (nothing has changed),
        StreamsUnavailable."""
        await self._move(self._keys.published[lane], self._keys.ingress[lane], passage)

    async def carry_back(self, lane: Lane) -> int:
        """Move entries of the broker's own lane into that of native publishers, which is the only one that is
        read where no signatures are required; return how many. Raises: as `admit`."""
        own = self._keys.ingress[lane]
        entries: list[tuple[bytes, list[bytes]]] = await self._connection.send(
            "XRANGE", own, "-", "+", "COUNT", READ_ENTRIES_MAX
        )
        if entries:
            passage = Passage([fields for _, fields in entries], leaving=[entry for entry, _ in entries])
            await self._move(own, self._keys.published[lane], passage)
        return len(entries)

    async def _move(self, source: str, target: str, passage: Passage) -> None:
        events = passage.events
        arguments: list[Argument] = [
            self._lease.value,
            len(passage.added),
            b"[" + b",".join(events) + b"]" if events else b"",
        ]
        for fields in passage.added:
            arguments += (len(fields), *fields)
        keys = (self._keys.owner("route"), self._keys.ledger, source, target)
        await self._connection.evaluate(ADMIT, keys, *arguments, *passage.leaving)


def _moment(entry: bytes) -> tuple[int, int]:
    """Return an entry id as what orders it."""
    at_ms, _, number = entry.partition(b"-")
    return int(at_ms), int(number)
