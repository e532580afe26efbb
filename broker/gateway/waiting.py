"""Waiting for a message to reach a rung: accepted < recorded < delivered < processed. (Waiting for a reply to
it begins here and goes on in `reply_waiting`.)

A waiter is registered before its message is published, is woken by receipts over pub/sub, and then looks at
the row, which alone is the truth; a receipt of the recorder may say what stands there, which saves the look.
Receipts may be lost (pub/sub) or come before the row is committed, so a waiter also looks by itself, at
intervals that double. A time-out is no error: the reply says how far it got.
"""

import asyncio
from collections.abc import Callable
from enum import IntEnum
from typing import ClassVar, Final, Generic, TypeVar

from broker.store import messages as stored_messages
from broker.store.pool import Pool
from schema.errors import StoreUnavailable
from schema.ledger import Progress, Receipt
from schema.limits import WAITERS_MAX
from schema.message import MessageView, Status

LOOK_FIRST_MS: Final = 100
"""When a waiter that heard nothing looks for the first time; most receipts come within 20 ms."""
LOOK_AGAIN_MS: Final = 5
"""After a receipt, when the row is not there yet: it is being committed at this moment."""


class Rung(IntEnum):
    """How far a message has come."""

    ACCEPTED = 0
    RECORDED = 1
    DELIVERED = 2
    PROCESSED = 3


_RECEIPT_RUNGS: Final = {
    "recorded": Rung.RECORDED,
    "delivered": Rung.DELIVERED,
    "processed": Rung.PROCESSED,
    "ended": Rung.PROCESSED,
}


def rung_of(status: str) -> Rung:
    """Return the rung a recorded message with this status has reached; every end is the last one."""
    if status == Status.PENDING.value:
        return Rung.RECORDED
    return Rung.DELIVERED if status == Status.DELIVERED.value else Rung.PROCESSED


class Waiter:
    """One request that waits for one message."""

    __slots__ = ("_changed", "message_id", "progress", "reached", "wanted")

    is_told: ClassVar = False
    """Whether receipts may say what its row says."""

    def __init__(self, message_id: str, wanted: Rung) -> None:
        self.message_id = message_id
        self.wanted = wanted
        self.reached = Rung.ACCEPTED
        self.progress: Progress | None = None
        """What the record said when the message was written there, if that is as far as is wanted."""
        self._changed = asyncio.Event()

    def hear(self, receipt: Receipt) -> None:
        """Note a receipt."""
        self.reached = max(self.reached, _RECEIPT_RUNGS.get(receipt.rung, Rung.ACCEPTED))
        progress = receipt.progress if self.is_told else None
        if progress is not None and (rung := rung_of(progress.status)) >= self.wanted:
            self.reached, self.progress = max(self.reached, rung), progress
        if self.reached >= self.wanted:
            self._changed.set()

    def release(self) -> None:
        """Stop waiting, whatever was reached: the gateway is closing."""
        self.wanted = Rung.ACCEPTED
        self._changed.set()

    async def heard(self, within_ms: float) -> None:
        """Wait for a receipt of the wanted rung, but no longer than this."""
        try:
            async with asyncio.timeout(within_ms / 1000):
                await self._changed.wait()
        except TimeoutError:
            pass


class AuthorWaiter(Waiter):
    """One request that waits for a message with an id of this gateway's making: what is recorded under it can
    be no other message, so that what the recorder says of the row need not be looked up."""

    __slots__ = ()

    is_told = True


class ReplyWaiter(Waiter):
    """One request that waits for a reply to one message. Every receipt is a reason to look: there is a reply,
    or the message has ended."""

    __slots__ = ()

    def __init__(self, message_id: str) -> None:
        super().__init__(message_id, Rung.PROCESSED)

    def hear(self, receipt: Receipt) -> None:
        """Note a receipt."""
        super().hear(receipt)
        self._changed.set()

    async def heard(self, within_ms: float) -> None:
        """Wait for a receipt not seen yet, but no longer than this."""
        await super().heard(within_ms)
        self._changed.clear()


OneWaiterT = TypeVar("OneWaiterT", bound=Waiter)
WaiterT = TypeVar("WaiterT", bound=Waiter, covariant=True)


class Waiters:
    """The waiters of this gateway, by message. Use as: `with waiters.expect(id, rung) as waiter`."""

    def __init__(self, limit: int = WAITERS_MAX) -> None:
        self._limit = limit
        self._by_message: dict[str, list[Waiter]] = {}
        self._count = 0
        self._released = False

    def __len__(self) -> int:
        return self._count

    def expect(self, message_id: str, wanted: Rung) -> "Expectation[Waiter]":
        """Register a waiter for as long as the context lasts; at the limit it only waits for `accepted`."""
        return self._expectation(Waiter(message_id, wanted))

    def expect_own(self, message_id: str, wanted: Rung) -> "Expectation[AuthorWaiter]":
        """The same for a message with an id that this gateway has made."""
        return self._expectation(AuthorWaiter(message_id, wanted))

    def expect_reply(self, message_id: str) -> "Expectation[ReplyWaiter]":
        """Register a waiter for a reply; at the limit it waits for nothing."""
        return self._expectation(ReplyWaiter(message_id))

    def on_receipts(self, receipts: list[Receipt]) -> None:
        """Pass receipts on to whoever waits for their messages."""
        for receipt in receipts:
            for waiter in self._by_message.get(receipt.id, ()):
                waiter.hear(receipt)

    def release_all(self) -> None:
        """Let every waiter go, and take no new ones: requests in flight shall end before the process does."""
        self._released = True
        for waiting in self._by_message.values():
            for waiter in waiting:
                waiter.release()

    def add(self, waiter: Waiter) -> None:
        self._count += 1
        self._by_message.setdefault(waiter.message_id, []).append(waiter)

    def remove(self, waiter: Waiter) -> None:
        self._count -= 1
        waiting = self._by_message[waiter.message_id]
        waiting.remove(waiter)
        if not waiting:
            del self._by_message[waiter.message_id]

    def _expectation(self, waiter: OneWaiterT) -> "Expectation[OneWaiterT]":
        if self._count >= self._limit or self._released:
            waiter.release()
        return Expectation(self, waiter)


class Expectation(Generic[WaiterT]):
    """A context in which a waiter is registered."""

    __slots__ = ("_waiter", "_waiters")

    def __init__(self, waiters: Waiters, waiter: WaiterT) -> None:
        self._waiters = waiters
        self._waiter = waiter

    def __enter__(self) -> WaiterT:
        self._waiters.add(self._waiter)
        return self._waiter

    def __exit__(self, *_: object) -> None:
        self._waiters.remove(self._waiter)


async def wait_for_row(
    pool: Pool, waiter: Waiter, *, timeout_ms: int, clock: Callable[[], float]
) -> MessageView | None:
    """Return the message's row once it has reached what the waiter wants, or as it is at the time-out.

    None when there is no row by then, or Postgres is away, or the waiter has been told what the row says
    (`progress`). `clock`: seconds, monotonic.
    """
    deadline = clock() + timeout_ms / 1000
    pause_ms, row_pause_ms = float(LOOK_FIRST_MS), float(LOOK_AGAIN_MS)
    seen: MessageView | None = None
    while waiter.wanted > Rung.ACCEPTED:
        left_ms = (deadline - clock()) * 1000
        if left_ms <= 0:
            break
        if waiter.reached < waiter.wanted:
            await waiter.heard(min(pause_ms, left_ms))
            pause_ms *= 2
        if waiter.progress is not None:
            return None
        try:
            seen = await stored_messages.get(pool, waiter.message_id)
        except StoreUnavailable:
            return seen
        if seen is not None and rung_of(seen.status) >= waiter.wanted:
            break
        if waiter.reached >= waiter.wanted:
            await asyncio.sleep(min(row_pause_ms, left_ms) / 1000)
            row_pause_ms *= 2
    return seen
