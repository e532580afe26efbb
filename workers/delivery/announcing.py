"""Which messages the record has to be told of before they are settled: those that take their time."""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from schema.ledger import Event
from workers.delivery.items import Item
from workers.delivery.outcome import announced

ANNOUNCE_MS: Final = 200
ANNOUNCE_WAITED_MS: Final = 20
"""What is not settled after this long is told to the record; sooner where somebody waits for that."""
ANNOUNCE_BATCH_MAX: Final = 128
SLOW_MS: Final = 2_000
"""An endpoint whose messages take longer gets nothing directly for so long: it would be put into its mailbox
all the same, in a call more. Short, because a machine that stands still makes all of them look slow."""


class Announcer:
    """Remembers what came, in order, until it is settled or told."""

    def __init__(
        self, tell: Callable[[Event], None], shelve: Callable[[Item, Callable[[], None]], None]
    ) -> None:
        self._tell = tell
        self._shelve = shelve
        self._waited: deque[Item] = deque()
        self._others: deque[Item] = deque()

    def note(self, item: Item) -> None:
        """Remember an item whose message is not on record."""
        (self._waited if item.waiter else self._others).append(item)

    def announce(self, now_ms: int) -> None:
        """Tell of what has not been settled in time."""
        self._announce(self._waited, now_ms - ANNOUNCE_WAITED_MS, now_ms)
        self._announce(self._others, now_ms - ANNOUNCE_MS, now_ms)

    def _announce(self, items: deque[Item], before_ms: int, now_ms: int) -> None:
        count = 0
        while items and items[0].held_ms <= before_ms and count < ANNOUNCE_BATCH_MAX:
            item = items.popleft()
            if item.announced:
                continue
            count += 1
            if item.direct or item.shelving is not None:
                # The record says where it lies, so that it can be taken back there.
                item.mailbox.endpoint.slow_until_ms = now_ms + SLOW_MS
                self._shelve(item, partial(self._tell_of, item, now_ms))
            else:
                self._tell_of(item, now_ms)

    def _tell_of(self, item: Item, now_ms: int) -> None:
        if not item.announced:
            self._tell(announced(item, now_ms=now_ms))
            item.announced = True
