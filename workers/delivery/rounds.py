"""What happens on a shard by the clock: retries that are due, what expires, breakers, empty mailboxes.

Answers and arrivals are `dispatch`'s and `delivery`'s. Ends with the first error; whoever runs it begins the
shard anew.
"""

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Final

from broker.streams.clock import ServerClock
from broker.streams.connection import Connection, Reply
from broker.streams.keys import Keys
from broker.streams.ownership import Lease
from broker.streams.scripts import VACATE
from schema.errors import BrokerError
from schema.message import Reason, Status
from workers.delivery.expiry import Expiry
from workers.delivery.items import Mailbox

if TYPE_CHECKING:
    from workers.delivery.delivery import Delivery

TICK_S: Final = 0.02
VACATE_BATCH_MAX: Final = 128
VACATE_TICKS: Final = 12
"""Ticks between two looks for empty mailboxes; one that found very many is followed by another at once, or
traffic that goes round a very large fleet would leave more behind than is cleared."""
EXPIRY_S: Final = 0.5
DUE_IDLE_S: Final = 0.5
DUE_S_MIN: Final = 0.005
"""Retries that are due within this are taken together."""


class Rounds:
    """Goes round one shard's delivery while its lease lasts."""

    def __init__(
        self, delivery: "Delivery", connection: Connection, keys: Keys, lease: Lease, clock: ServerClock
    ) -> None:
        self._delivery = delivery
        self._connection = connection
        self._keys = keys
        self._lease = lease
        self._clock = clock
        self._expiry = Expiry(connection, keys, delivery.room)
        self._due_sooner = asyncio.Event()
        self._hastened: set[str] = set()
        """Agents whose retries shall not wait for their time."""
        self._ticks = 0
        self._more_vacant = False

    async def run(self) -> None:
        """Go on until cancelled. Raises: BrokerError."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tick())
            group.create_task(self._take_due())
            group.create_task(self._expire())

    def expect_retry(self, due_ms: int) -> None:
        """Be there when a retry is due."""
        if self._delivery.collector.due_by(due_ms):
            self._due_sooner.set()

    def hasten(self, agent_id: str) -> None:
        """Let the retries of an agent be due now."""
        self._hastened.add(agent_id)
        self._due_sooner.set()

    async def _tick(self) -> None:
        delivery = self._delivery
        while True:
            await asyncio.sleep(TICK_S)
            self._ticks += 1
            delivery.stats.now_ms = now_ms = self._clock.now_ms()
            delivery.announcer.announce(now_ms)
            delivery.dispatch.probe(now_ms)
            delivery.newcomers.look_again(now_ms)
            delivery.left_to_pull.go_on()
            delivery.calm_down(now_ms)
            # Memory also empties without an answer: what expired, what has nowhere to go.
            delivery.collect()
            if self._more_vacant or self._ticks % VACATE_TICKS == 0:
                self._vacate(now_ms)

    def _vacate(self, now_ms: int) -> None:
        mailboxes = list(self._delivery.room.vacant(now_ms=now_ms, at_most=VACATE_BATCH_MAX))
        self._more_vacant = len(mailboxes) == VACATE_BATCH_MAX
        used = [mailbox for mailbox in mailboxes if mailbox.is_used]
        if used and not self._delivery.dispatch.stopping:
            keys = (self._keys.owner("deliver"), self._keys.active, *(m.key for m in used))
            self._connection.run(VACATE, keys, (self._lease.value,), partial(self._vacated, used))

    def _vacated(self, mailboxes: list[Mailbox], reply: Reply) -> None:
        if isinstance(reply, BrokerError):
            self._delivery.fail(reply)
            return
        for mailbox, was_empty in zip(mailboxes, reply, strict=True):
            if not was_empty:
                # Written to by somebody else, or a pull was cut short: look at it from the start.
                self._delivery.ring(mailbox.key)

    async def _take_due(self) -> None:
        collector, dispatch = self._delivery.collector, self._delivery.dispatch
        while True:
            next_ms, now_ms = collector.next_due_ms, self._clock.now_ms()
            left_s = DUE_IDLE_S if next_ms is None else (next_ms - now_ms) / 1000
            try:
                async with asyncio.timeout(min(DUE_IDLE_S, max(DUE_S_MIN, left_s))):
                    await self._due_sooner.wait()
                self._due_sooner.clear()
                if not self._hastened:
                    continue
            except TimeoutError:
                pass
            if dispatch.stopping:
                continue
            if self._hastened:
                # Here, where nothing is being taken meanwhile: it would be due a second time.
                hastened, self._hastened = self._hastened, set()
                await collector.hasten(hastened, self._lease.value)
            items, freed = await collector.take_due(self._lease.value, now_ms=self._clock.now_ms())
            now_ms = self._clock.now_ms()
            for item in items:
                dispatch.hold(item, now_ms)
                dispatch.pump(item.mailbox.endpoint, now_ms)
            for mailbox in freed:
                dispatch.pump(mailbox.endpoint, now_ms)

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(0 if self._expiry.is_behind else EXPIRY_S)
            for item in await self._expiry.take(self._lease.value, now_ms=self._clock.now_ms()):
                self._delivery.dispatch.finish(item, Status.EXPIRED, Reason.EXPIRED, self._clock.now_ms())
