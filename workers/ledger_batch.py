"""How much of the ledger goes into one transaction, and when it is enough.

Decides, reads nothing. A batch is ready at once when somebody waits for one of its messages or when it is
large; otherwise it may linger for a moment, so that at low rates many messages share a transaction and its
fsync.
"""

from math import ceil
from typing import Final

from broker.streams.ledger import LedgerEntry
from schema.ledger import Event
from schema.limits import LEDGER_READ_ENTRIES_MAX, RECORD_BYTES_MAX, RECORD_EVENTS_MAX

EVENTS_ENOUGH: Final = 500
"""Beyond this a larger batch saves next to nothing, and a wait costs latency."""
ENTRIES_FIRST: Final = 16
SMOOTHING: Final = 0.3


class Batch:
    """Consecutive entries of a ledger that are recorded together."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.last_id = ""
        self._size_bytes = 0
        self._is_awaited = False

    def add(self, entries: list[LedgerEntry]) -> None:
        for entry in entries:
            self.events += entry.events
            self._size_bytes += entry.size_bytes
            self.last_id = entry.id
            self._is_awaited |= any(event.waiter is not None for event in entry.events)

    @property
    def is_empty(self) -> bool:
        return not self.last_id

    @property
    def is_ready(self) -> bool:
        return (
            self._is_awaited or len(self.events) >= EVENTS_ENOUGH or self._size_bytes >= RECORD_BYTES_MAX // 2
        )


class ReadSize:
    """How many entries to ask for: as many as make a full batch, judged by those read before.

    An entry carries one event when little happens and a hundred under load; with a fixed number the reader
    would fall behind at small entries or take megabytes at large ones.
    """

    def __init__(self) -> None:
        self._events = RECORD_EVENTS_MAX / ENTRIES_FIRST
        self._bytes = RECORD_BYTES_MAX / ENTRIES_FIRST

    def learn(self, entries: list[LedgerEntry]) -> None:
        count = len(entries)
        events = sum(len(entry.events) for entry in entries) / count
        size_bytes = sum(entry.size_bytes for entry in entries) / count
        self._events += (events - self._events) * SMOOTHING
        self._bytes += (size_bytes - self._bytes) * SMOOTHING

    @property
    def entries(self) -> int:
        fitting = min(RECORD_EVENTS_MAX / max(self._events, 1), RECORD_BYTES_MAX / max(self._bytes, 1))
        return max(1, min(ceil(fitting), LEDGER_READ_ENTRIES_MAX))
