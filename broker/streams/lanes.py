"""Reading the ingress lanes of a shard, by cursor and without a group: the routing owner is their one reader.

An entry may carry several messages: a field `m` holds one, or several with a record separator before each (as
in RFC 7464), and may be repeated. JSON has no such byte, neither in strings nor around them. What is read
stays in the stream until the route script deletes it, so a reader that dies loses nothing: the next owner
begins at the start.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from broker.streams.connection import Connection, Reply
from broker.streams.keys import Keys
from schema.limits import ENTRY_MESSAGES_MAX
from schema.message import LANES, Lane

BLOCK_MS: Final = 2_000
"""Longest wait for new messages in one call; well under the connection's patience."""
READ_MESSAGES_AIM: Final = 256
READ_ENTRIES_MAX: Final = 128
_SEPARATOR: Final = b"\x1e"


def joined(messages: Sequence[bytes]) -> bytes:
    """Return the field `m` that holds these messages. Redis handles one value far cheaper than many."""
    return messages[0] if len(messages) == 1 else _SEPARATOR.join((b"", *messages))


def parted(field: bytes) -> list[bytes]:
    """Return the messages in a field `m`; where there are more than an entry may have, one too many."""
    if field[:1] != _SEPARATOR:
        return [field]
    return field.split(_SEPARATOR, ENTRY_MESSAGES_MAX + 1)[1:]


class IngressEntry:
    """One entry of an ingress lane. `passed`: it was deduplicated before (scheduled or parked messages).
    `known`: it has been forwarded by a shard where that was so."""

    __slots__ = ("at_ms", "id", "is_again", "known", "lane", "messages", "passed", "waiter")

    def __init__(self, lane: Lane, entry_id: str, fields: list[bytes]) -> None:
        self.lane = lane
        self.id = entry_id
        self.at_ms = int(entry_id.partition("-")[0])
        """When Redis took the entry, by its own clock."""
        self.waiter = ""
        self.passed = False
        self.known = False
        self.is_again = False
        """Whether Redis refused the call that should have moved it, so that it is placed once more."""
        self.messages: list[bytes] = []
        for name, value in zip(fields[::2], fields[1::2], strict=True):
            if name == b"m":
                self.messages += parted(value)
            elif name == b"w":
                self.waiter = value.decode("ascii", "replace")
            elif name == b"p":
                self.passed = True
            elif name == b"o":
                self.known = True


class LaneReader:
    """Reads the lanes of one shard over a connection of its own (it blocks)."""

    def __init__(self, connection: Connection, keys: Keys) -> None:
        self._connection = connection
        self._lane_of = {key.encode(): lane for lane, key in keys.ingress.items()}
        self._key_of = keys.ingress
        self._cursors = dict.fromkeys(LANES, "0-0")
        self._count = READ_ENTRIES_MAX

    async def read(self, lanes: Iterable[Lane], *, block_ms: int | None = BLOCK_MS) -> list[IngressEntry]:
        """Return the next entries of these lanes; waits so long for one (None: not at all). Raises:
        BrokerError."""
        wanted = list(lanes)
        block = () if block_ms is None else ("BLOCK", block_ms)
        reply = await self._connection.send(
            "XREAD", "COUNT", self._count, *block, "STREAMS",
            *(self._key_of[lane] for lane in wanted),
            *(self._cursors[lane] for lane in wanted),
        )  # fmt: skip
        entries = [entry for stream in reply or () for entry in self._parse(stream)]
        self._adapt(entries)
        return entries

    def _parse(self, stream: Reply) -> list[IngressEntry]:
        lane = self._lane_of[stream[0]]
        entries = [IngressEntry(lane, entry_id.decode(), fields) for entry_id, fields in stream[1]]
        self._cursors[lane] = entries[-1].id
        return entries

    def _adapt(self, entries: list[IngressEntry]) -> None:
        """Aim at a number of messages a read, however many an entry carries."""
        if entries:
            per_entry = max(1, sum(len(entry.messages) for entry in entries) // len(entries))
            self._count = max(4, min(READ_ENTRIES_MAX, READ_MESSAGES_AIM // per_entry))
