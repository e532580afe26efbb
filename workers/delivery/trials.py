"""Finds the message that kills its worker, and buries it.

Theory of operation. A delivery owner says in Redis that it has begun, and takes that back when it ends in
good order. Who finds such a word of another has come after a death, and counts it. As long as deaths are rare
that is all: nothing is written per message. After SUSPICIOUS_DEATHS in a row the owner becomes suspicious:
every message is noted before it is posted and struck out when it has come back, so what was under way at the
next death is known. A message that was is a suspect: of suspects only one is posted at a time, so that a
further death is counted against the one that was out and against nobody who waited. At POISON_DEATHS it is
buried.

So a message that kills every time costs SUSPICIOUS_DEATHS + POISON_DEATHS workers (of which some may die for
other reasons), an innocent one that was beside it is delivered, and an owner that lives for CALM_MS suspects
nobody any more. A lease or a connection that is lost is no death: who lives on takes it back (`survival`).
"""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from broker.streams.connection import Connection, Reply
from broker.streams.keys import Keys
from broker.streams.scripts import BEGIN
from broker.telemetry import logs
from schema.errors import BrokerError, StreamsFull
from workers.delivery.items import Item
from workers.delivery.survival import Survival

SUSPICIOUS_DEATHS: Final = 2
POISON_DEATHS: Final = 5
"""Counted against one message: far more than chance would kill a worker with the same one under way."""
CALM_MS: Final = 120_000
"""Longer than a death, the end of its lease and the work of the next owner take together."""


class Trials:
    """The suspicions of one delivery owner. `is_on` False: it has none, and nothing here is to be asked."""

    def __init__(
        self,
        connection: Connection,
        keys: Keys,
        *,
        owner: str,
        survival: Survival,
        on_error: Callable[[BrokerError], None],
    ) -> None:
        self.is_on = False
        self._connection = connection
        self._keys = keys
        self._owner = owner
        self._survival = survival
        self._on_error = on_error
        self._has_begun = False
        """Whether it says in Redis that this owner has begun, and nothing of its end."""
        self._deaths: dict[str, int] = {}
        """Deaths counted against messages, by their place."""
        self._suspects: deque[tuple[Item, Callable[[], None]]] = deque()
        self._on_trial: str | None = None
        self._noted_here: set[str] = set()
        """Places this owner has noted and not struck out again."""
        self._calm_ms = 0

    async def begin(self, now_ms: int) -> None:
        """Say that this owner has begun, and look how the last one ended.

        Raises: Fenced, StreamsUnavailable.
        """
        keys = self._keys
        await self._survival.tell(self._connection, keys.shard)
        deaths: int = await self._connection.evaluate(
            BEGIN,
            (keys.owner("deliver"), keys.deliverer, keys.deaths, keys.trials),
            *(self._owner, CALM_MS),
        )
        self._has_begun = True
        if deaths < SUSPICIOUS_DEATHS:
            return
        found = await self._connection.send("HGETALL", keys.trials)
        self._deaths = {
            place.decode(): int(count) for place, count in zip(found[::2], found[1::2], strict=True)
        }
        self.is_on = True
        self._calm_ms = now_ms + CALM_MS
        logs.warning("delivery.suspicious", shard=keys.shard, deaths=deaths, suspects=len(self._deaths))

    async def end(self) -> None:
        """Say that this owner ends in good order, while the lease is still its own."""
        try:
            await self._connection.send("DEL", self._keys.deliverer, self._keys.deaths, self._keys.trials)
        except BrokerError as error:
            # The next owner takes it for a death, of which one does no harm, unless `close` can still tell.
            logs.warning("delivery.end_untold", shard=self._keys.shard, reason=error.message)
        else:
            self._has_begun = False

    def close(self) -> None:
        """See that it is said, if this owner has not ended in good order, that its process has not died."""
        if self._has_begun:
            self._has_begun = False
            self._survival.lost(self._keys, self._owner, self._noted_here)

    def calm_down(self, now_ms: int) -> None:
        """Suspect nobody any more once this owner has lived for long."""
        if now_ms < self._calm_ms or self._suspects or self._on_trial is not None:
            return
        self.is_on = False
        self._connection.call(("DEL", self._keys.trials, self._keys.deaths), self._answered)

    def is_poison(self, item: Item) -> bool:
        """Tell whether so many owners have died with this message under way that it has to be the reason."""
        # Not struck out: should this owner die before that is settled, the next must not begin to count anew.
        return self._deaths.get(item.place, 0) >= POISON_DEATHS

    def post(self, item: Item, go: Callable[[], None]) -> None:
        """Let an item be posted by `go` when that is noted and, of a suspect, when it is its turn."""
        if item.place in self._deaths:
            self._suspects.append((item, go))
            self._next()
        else:
            self._note(item, go)

    def came_back(self, item: Item) -> None:
        """Note that an item has not killed anybody."""
        self._strike(item)
        if self._on_trial == item.place:
            self._on_trial = None
            self._next()

    def _next(self) -> None:
        if self._on_trial is None and self._suspects:
            item, go = self._suspects.popleft()
            self._on_trial = item.place
            self._note(item, go)

    def _note(self, item: Item, go: Callable[[], None]) -> None:
        self._noted_here.add(item.place)
        command = ("HINCRBY", self._keys.trials, item.place, 1)
        self._connection.call(command, partial(self._noted, go))

    def _noted(self, go: Callable[[], None], reply: Reply) -> None:
        if isinstance(reply, BrokerError) and not isinstance(reply, StreamsFull):
            self._on_error(reply)
            return
        # Redis at its memory limit: better posted without a note than not at all.
        go()

    def _strike(self, item: Item) -> None:
        self._deaths.pop(item.place, None)
        self._connection.call(("HDEL", self._keys.trials, item.place), partial(self._struck, item.place))

    def _struck(self, place: str, reply: Reply) -> None:
        if not isinstance(reply, BrokerError):
            self._noted_here.discard(place)
        self._answered(reply)

    def _answered(self, reply: Reply) -> None:
        if isinstance(reply, BrokerError) and not isinstance(reply, StreamsFull):
            self._on_error(reply)
