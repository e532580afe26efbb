"""How much of the ledger goes into one transaction, and when it is enough.

Decides, reads nothing. A batch is ready at once when it is large; otherwise it may linger, so that many
messages share a transaction and its fsync: for a moment at low rates, for longer where that fills it. Where
somebody waits for one of its messages it lingers hardly at all, and only where others come meanwhile.
"""

from math import ceil
from typing import Final

from broker.streams.ledger import LedgerEntry
from schema.ledger import Event
from schema.limits import LEDGER_READ_ENTRIES_MAX, RECORD_BYTES_MAX, RECORD_EVENTS_MAX

EVENTS_ENOUGH: Final = 500
"""Beyond this a larger batch saves next to nothing, and a wait costs latency."""
EVENTS_WORTH_WAITING: Final = 128
"""A message then costs half of what it costs in a batch of 30 (measured)."""
EVENTS_WORTH_SHARING: Final = 8
"""So few that come meanwhile make it worth to wait for LINGER_SHARING_MS."""
LINGER_SHARING_MS: Final = 40
"""At 500 messages a second and shard, three transactions of 8 become one of 20: it starts at about 1 ms of
PostgreSQL's time and 1 ms of the recorder's and Redis's, however few messages are in it (measured)."""
LINGER_MS_MAX: Final = 100
"""How long a batch that fills may wait. Nobody waits for its messages; reading one back takes this long."""
AWAITED_LINGER_MS: Final = 8
"""How long a batch that somebody waits for may wait: a transaction for one message costs the stores three
times what it costs them in one of five (measured), and where they are busy that is waited for too."""
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
    def is_awaited(self) -> bool:
        """Whether somebody waits for one of its messages."""
        return self._is_awaited

    @property
    def is_full(self) -> bool:
        return len(self.events) >= EVENTS_ENOUGH or self._size_bytes >= RECORD_BYTES_MAX // 2


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


class Linger:
    """How long a batch may wait for more, judged by how many events came in the time before.

    `shortest_ms`: at low rates, where waiting longer would fill no batch; 0 means that none ever waits.
    """

    def __init__(self, shortest_ms: int) -> None:
        self._shortest_ms = shortest_ms
        self._events_per_ms = 0.0

    def learn(self, events: int, during_ms: float) -> None:
        """Take in how many events were recorded in a time."""
        rate = events / max(during_ms, 1.0)
        self._events_per_ms += (rate - self._events_per_ms) * SMOOTHING

    @property
    def ms(self) -> int:
        if not self._shortest_ms:
            return 0
        if self._events_per_ms * LINGER_MS_MAX >= EVENTS_WORTH_WAITING:
            return LINGER_MS_MAX
        if self._events_per_ms * LINGER_SHARING_MS >= EVENTS_WORTH_SHARING:
            return max(LINGER_SHARING_MS, self._shortest_ms)
        return self._shortest_ms

    @property
    def awaited_ms(self) -> int:
        """How long a batch that somebody waits for may wait: not at all unless it is likely to grow."""
        longest = min(AWAITED_LINGER_MS, self._shortest_ms)
        return longest if self._events_per_ms * longest >= 1 else 0

    @property
    def look_ms(self) -> int:
        """How long to wait before looking again: somebody may have begun to wait for a message."""
        return self._shortest_ms
