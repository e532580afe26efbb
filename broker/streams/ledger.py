"""Reading and cutting the ledger. Its one reader is the owner of the shard's `record` trade."""

from base64 import b64encode
from collections.abc import Sequence

from msgspec import MsgspecError, Struct

from broker.streams.connection import Connection, Reply
from broker.streams.keys import Keys
from broker.streams.scripts import CUT
from schema.codec import decode_events, decode_whole_events
from schema.ledger import Event, EventKind
from schema.message import Reason


class LedgerEntry(Struct):
    """One entry: its stream id, its events in order, its size on the wire."""

    id: str
    events: Sequence[Event]
    size_bytes: int


class LedgerReader:
    """Reads the ledgers of shards over one connection. A blocking read wants a connection of its own."""

    def __init__(self, connection: Connection, *, shards: int) -> None:
        self._connection = connection
        self._keys = [Keys(shard) for shard in range(shards)]

    async def read(self, shard: int, after: str, *, count: int, block_ms: int = 0) -> list[LedgerEntry]:
        """Return up to `count` entries behind the entry `after` ("0-0": from the start).

        Waits up to `block_ms` for the first one; 0 does not wait. Raises: BrokerError.
        """
        key = self._keys[shard].ledger
        wait = ("BLOCK", block_ms) if block_ms else ()
        reply = await self._connection.send("XREAD", "COUNT", count, *wait, "STREAMS", key, after)
        return [_parse(entry, key) for entry in reply[0][1]] if reply else []

    async def cut(self, shard: int, last_id: str, owner: str) -> int:
        """Drop everything up to and with `last_id`; return how many entries that were.

        `owner`: the lease's value. Raises: Fenced where it is no longer the owner's.
        """
        keys = self._keys[shard]
        count: int = await self._connection.evaluate(
            CUT, (keys.owner("record"), keys.ledger), owner, _successor(last_id)
        )
        return count

    async def lag(self, shard: int, *, now_ms: int) -> tuple[int, int]:
        """Return the number of entries waiting and the age of the oldest in ms."""
        key = self._keys[shard].ledger
        length, first = await self._connection.send_many(
            (("XLEN", key), ("XRANGE", key, "-", "+", "COUNT", 1))
        )
        age_ms = max(0, now_ms - int(first[0][0].split(b"-")[0])) if first else 0
        return length, age_ms


def _parse(entry: Reply, stream: str) -> LedgerEntry:
    entry_id, fields = entry[0].decode(), entry[1]
    values = dict(zip(fields[::2], fields[1::2], strict=True))
    batch: bytes = values.get(b"b", b"")
    events: Sequence[Event]
    try:
        events = _events(batch)
        if (ids := values.get(b"i")) is not None:
            for event, mailbox_entry in zip(events, ids.decode().split(" "), strict=True):
                if mailbox_entry != "-":
                    event.mailbox_entry = mailbox_entry
    except (MsgspecError, ValueError) as error:
        # Not written by us. Set aside with its bytes: the ledger behind it must not wait for ever.
        events = [_unreadable(entry_id, batch, stream, error)]
    return LedgerEntry(id=entry_id, events=events, size_bytes=len(batch))


def _events(batch: bytes) -> Sequence[Event]:
    """Return the events with their messages decoded; where one of these cannot be read, with none decoded.

    Raises: MsgspecError.
    """
    try:
        return decode_whole_events(batch)
    except MsgspecError:
        return decode_events(batch)


def _unreadable(entry_id: str, batch: bytes, stream: str, error: Exception) -> Event:
    return Event(
        kind=EventKind.QUARANTINED,
        id=entry_id,
        at_ms=int(entry_id.partition("-")[0]),
        reason=Reason.MALFORMED.value,
        detail=f"ledger entry: {error}"[:500],
        raw=b64encode(batch).decode(),
        stream=stream,
    )


def _successor(entry_id: str) -> str:
    moment, sequence = entry_id.split("-")
    return f"{moment}-{int(sequence) + 1}"
