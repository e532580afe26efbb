"""The delivery owner of one shard, as far as it is one of ours: what it has in hand, and how it gets that.

It stands where routers see a `Delivery`. The books, and what puts messages into their
mailboxes that were handed over directly, are the product's own.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import NoReturn

from broker.core.breaker import Breaker
from broker.core.directory import Directory
from broker.streams.keys import Keys
from model.wire import Wire
from schema.agent import Agent
from schema.errors import BrokerError
from schema.message import Envelope, Lane
from workers.delivery.items import Item, Mailbox, item_of
from workers.delivery.mailroom import Mailroom
from workers.delivery.shelving import Shelver


class Hands(Enum):
    """Where a router puts what is pushed: it is in another process than the delivery owner; in the same, and
    that wants it in its mailbox; or has it handed over directly."""

    APART = "apart"
    MAILBOX = "mailbox"
    DIRECT = "direct"


@dataclass
class Held:
    """A message a delivery owner has in hand. `attempts`: used before this one. `item`: what was handed over
    directly, wherever it lies now."""

    mailbox: str
    entry: str
    body: bytes
    attempts: int = 0
    due_member: str = ""
    item: Item | None = None

    @property
    def is_direct(self) -> bool:
        """Whether it lies in no mailbox."""
        return self.item is not None and self.item.direct

    @property
    def place(self) -> str:
        return self.entry if self.is_direct else f"{self.mailbox}|{self.entry}"


class Courier:
    """The delivery owner of one shard."""

    def __init__(
        self, wire: Wire, lease: str, keys: Keys, directory: Directory, now_ms: Callable[[], int]
    ) -> None:
        self.wire = wire
        self.lease = lease
        self.hands = Hands.APART
        self.hand: dict[str, Held] = {}
        """What was handed over directly and is not posted, by place."""
        self.in_flight: dict[str, Held] = {}
        """What is posted and has no answer yet, by place."""
        self.expiring: dict[str, str] = {}
        """Events of what was looked at and is about to expire, by place: nobody else here touches that."""
        self._directory = directory
        self._error: BrokerError | None = None
        room = Mailroom(keys, find_agent=directory.get, make_breaker=Breaker, now_ms=now_ms)
        self._room = room
        self.shelver = Shelver(
            *(wire, keys, room),
            life=f"life-{lease}",
            owner=lambda: lease,
            now_ms=now_ms,
            set_aside=_never,
            unserved=lambda key: None,
            on_room=lambda: None,
            on_error=self._fail,
        )

    @property
    def direct(self) -> set[str]:
        """Return the names of what it has in hand and what lies in no mailbox."""
        return {held.entry for held in (*self.hand.values(), *self.in_flight.values()) if held.is_direct}

    # --- what a router sees of it ---------------------------------------------------------------------

    def expect(self, agent: Agent, lane: Lane) -> Mailbox | None:
        known = self._directory.get(agent.id)
        if known is None or not known.is_pushed_to:
            return None
        mailbox = self._room.mailbox_of(agent.id, lane)
        assert mailbox is not None
        mailbox.coming += 1
        # It is vacated without a look at these books.
        mailbox.active = False
        return mailbox

    def takes_directly(self, mailbox: Mailbox) -> bool:
        return True

    def name_for(self, mailbox: Mailbox, now_ms: int) -> str:
        return self.shelver.new_name() if self.hands is Hands.DIRECT else ""

    def receive(
        self, mailbox: Mailbox, name: str, envelope: Envelope, body: bytes, now_ms: int, route: bytes | None
    ) -> None:
        mailbox.coming -= 1
        item = item_of(mailbox, name, envelope, body, "", False, route, now_ms)
        item.direct = True
        self.hand[name] = Held(mailbox.key, name, body, item=item)

    def accept(self, mailbox: Mailbox, *_: object) -> None:
        """It is read back."""
        mailbox.coming -= 1

    def miss(self, mailbox: Mailbox) -> None:
        mailbox.coming -= 1

    def ring(self, key: str) -> None:
        """It looks everywhere, always."""

    # --- into mailboxes -------------------------------------------------------------------------------

    async def shelve(self, held: Held) -> bool:
        """Put what was handed over directly into its mailbox and go on with it; false: it died of that."""
        assert held.item is not None
        there: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.shelver.shelve(held.item, lambda: there.set_result(None))
        await self.shelver.drain()
        held.entry = held.item.entry
        return self._error is None and there.done()

    async def give_back(self, held: Held) -> bool:
        """Put it there and forget it; false: it died of that."""
        assert held.item is not None
        self.shelver.give_back([held.item])
        await self.shelver.drain()
        return self._error is None

    def _fail(self, error: BrokerError) -> None:
        self._error = error


def _never(name: str, raw: bytes, error: Exception, now_ms: int) -> NoReturn:
    raise AssertionError(f"{name}: {error}")
