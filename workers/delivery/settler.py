"""Collects what attempts came to and settles it in batches, one script call each.

Settling is not on the way of a message to its endpoint, so results wait a few milliseconds for company,
unless somebody waits for one of them. What is sent is not forgotten before Redis has answered.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from msgspec import Struct, field

from broker.streams.connection import Connection, Reply
from broker.streams.keys import Keys
from broker.streams.notifications import commands
from broker.streams.scripts import REROUTE
from broker.streams.settlement import Settlement, call_settle
from schema.codec import encode
from schema.errors import BrokerError
from schema.ledger import Event, Receipt
from schema.limits import SETTLE_BATCH_MAX
from schema.message import Envelope, Status, lane_of
from workers.delivery.items import Item
from workers.delivery.outcome import quarantined

LINGER_S: Final = 0.010
"""Long enough that at 1,000 messages a second several share a call, short against the recorder's own."""
CALLS_IN_FLIGHT_MAX: Final = 2
"""With so many under way, what is to be settled waits for company."""
FULL_CALLS_IN_FLIGHT_MAX: Final = 16
"""A full batch gains nothing by waiting. Held back as well, batches piled up behind a loop that was busy
posting: of a million messages that had waited, most were posted long before they were settled (1.5 GB)."""

_DELIVERED: Final = Status.DELIVERED
_RUNG: Final = {
    _DELIVERED: "delivered",
    Status.PROCESSED: "processed",
    Status.FAILED: "ended",
    Status.EXPIRED: "ended",
    Status.CANCELLED: "ended",
}


class _Batch(Struct):
    """What goes into one call."""

    settlement: Settlement = field(default_factory=Settlement)
    items: list[Item] = field(default_factory=list)
    receipts: dict[str, list[Receipt]] = field(default_factory=dict)


class Settler:
    """Batches settlements of one shard. `on_settled` gets the items Redis has let go of; `on_error` the error
    after which the owner's memory no longer matches Redis."""

    def __init__(
        self,
        connection: Connection,
        keys: Keys,
        *,
        owner: Callable[[], str],
        on_settled: Callable[[list[Item]], None],
        on_error: Callable[[BrokerError], None],
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._owner = owner
        self._on_settled = on_settled
        self._on_error = on_error
        self._loop = asyncio.get_running_loop()
        self._batch = _Batch()
        self._full: deque[_Batch] = deque()
        """Batches that wait for a call. Bounded each: Lua takes no 8,000 values at once."""
        self._is_closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._in_flight = 0
        self._rerouting = 0
        self._last: Item | None = None
        self._idle = asyncio.Event()

    def took_last(self, item: Item) -> bool:
        """Tell whether this is what was handed over last: whatever fails then, it comes to its end."""
        return self._last is item

    def finish(self, item: Item, event: Event) -> None:
        """Settle an item for good: its entry goes, its event stays."""
        if item.shelving is not None:
            self._last = item
            item.shelving.append(partial(self.finish, item, event))
            return
        written = encode(event)  # First: an entry must not go without its event.
        self._finish(item)
        self._note(written, event.id, event.status, item.waiter)

    def finish_written(self, item: Item, event: bytes) -> None:
        """Settle an item that was delivered; its event is written already."""
        if not item.direct:
            if item.shelving is not None:
                self._last = item
                item.shelving.append(partial(self.finish_written, item, event))
                return
            self._finish(item)
            self._note(event, item.id, _DELIVERED, item.waiter)
            return
        # The same in one piece: nobody waits for it, and it lies in no mailbox.
        batch = self._batch
        settlement = batch.settlement
        events = settlement.events
        settlement.direct.append(item.entry)
        batch.items.append(item)
        self._last = item
        events.append(event)
        if len(events) >= SETTLE_BATCH_MAX or (self._timer is None and not self._is_closed):
            self._send_soon()

    def set_aside(self, item: Item, error: Exception, now_ms: int) -> None:
        """Take an entry that is no message out of its mailbox; the record keeps its bytes."""
        event = quarantined(item.mailbox.key, item.entry, item.body, error=error, now_ms=now_ms)
        written = encode(event)
        self._finish(item)
        self._note(written, item.entry, Status.FAILED, "")

    def set_aside_direct(self, name: str, raw: bytes, error: Exception, now_ms: int) -> None:
        """Take what is no message from among the direct ones; the record keeps its bytes."""
        written = encode(quarantined(self._keys.direct, name, raw, error=error, now_ms=now_ms))
        self._batch.settlement.direct.append(name)
        self._note(written, name, Status.FAILED, "")

    def retry(self, item: Item, event: Event, *, due_ms: int, member: str) -> None:
        """Plan another attempt; `member` is its name among what waits."""
        written, settlement = encode(event), self._batch.settlement
        if item.due_taken:
            settlement.over.append(item.due_member)
        settlement.retries[member] = due_ms
        self._batch.items.append(item)
        self._last = item
        self._note(written, event.id, event.status, item.waiter)

    def reroute(self, item: Item, event: Event, message: Envelope) -> None:
        """Take an item from its agent and put its message back into the ingress, for another to be chosen."""
        if self._is_closed:
            return
        keys, mailbox = self._keys, item.mailbox
        written, again = encode(event), encode(message)
        self._rerouting += 1
        self._last = item
        self._connection.run(
            REROUTE,
            (
                *(keys.owner("deliver"), keys.ledger, keys.due, keys.expiry, mailbox.key),
                keys.ingress[lane_of(message.priority)],
            ),
            (
                *(self._owner(), item.entry, written, again, item.waiter),
                item.due_member if item.due_taken else "",
            ),
            partial(self._rerouted, item),
        )

    def _rerouted(self, item: Item, reply: Reply) -> None:
        self._rerouting -= 1
        if isinstance(reply, BrokerError):
            self._on_error(reply)
        else:
            self._on_settled([item])
        if self._is_idle:
            self._idle.set()

    def tell(self, event: Event) -> None:
        """Append an event that changes no entry."""
        self._note(encode(event), event.id, event.status, event.waiter or "")

    async def drain(self) -> None:
        """Wait until everything handed over has been answered."""
        self._flush()
        while not self._is_idle:
            self._idle.clear()
            await self._idle.wait()

    def close(self) -> None:
        """Send nothing more."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _finish(self, item: Item) -> None:
        settlement = self._batch.settlement
        if item.direct:
            settlement.direct.append(item.entry)
        else:
            settlement.finished.setdefault(item.mailbox.key, []).append(item.entry)
        if item.due_taken:
            settlement.over.append(item.due_member)
        if item.expires_ms is not None:
            settlement.forget.append(item.place)
        self._batch.items.append(item)
        self._last = item

    def _note(self, event: bytes, message_id: str, status: Status, waiter: str) -> None:
        batch = self._batch
        batch.settlement.events.append(event)
        if waiter and (rung := _RUNG.get(status)) is not None:
            batch.receipts.setdefault(waiter, []).append(Receipt(message_id, rung))
        if waiter and len(batch.settlement.events) < SETTLE_BATCH_MAX:
            self._flush()
        else:
            self._send_soon()

    def _send_soon(self) -> None:
        """Send what is full at once, and anything else when it has lingered."""
        if len(self._batch.settlement.events) >= SETTLE_BATCH_MAX:
            self._full.append(self._batch)
            self._batch = _Batch()
            self._flush()
        elif self._timer is None and not self._is_closed:
            self._timer = self._loop.call_later(LINGER_S, self._flush)

    def _flush(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while not self._is_closed:
            if self._full and self._in_flight < FULL_CALLS_IN_FLIGHT_MAX:
                self._send(self._full.popleft())
            elif self._in_flight >= CALLS_IN_FLIGHT_MAX or self._batch.settlement.is_empty:
                return
            else:
                batch, self._batch = self._batch, _Batch()
                self._send(batch)

    def _send(self, batch: _Batch) -> None:
        self._in_flight += 1

        def answered(reply: Reply) -> None:
            self._answered(reply, batch.items)

        call_settle(self._connection, self._keys, batch.settlement, owner=self._owner(), on_reply=answered)
        for command in commands(batch.receipts):
            self._connection.call(command, _ignore)

    def _answered(self, reply: Reply, items: list[Item]) -> None:
        self._in_flight -= 1
        if isinstance(reply, BrokerError):
            self._on_error(reply)
        else:
            self._on_settled(items)
        if self._timer is None or self._full:
            # The bound on calls held a flush back, so what waits has lingered enough.
            self._flush()
        if self._is_idle:
            self._idle.set()

    @property
    def _is_idle(self) -> bool:
        return (
            not self._in_flight and not self._rerouting and not self._full and self._batch.settlement.is_empty
        )


def _ignore(_: Reply) -> None:
    """A receipt that gets lost costs its waiter the time-out; the record has the truth."""
