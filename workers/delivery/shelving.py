"""Puts messages into their mailboxes that were handed over directly and are not done at the first go.

What is handed over directly lies in one hash of its shard, for whoever owns the shard next, and nobody else
ever looks at it there. So before anything but its end becomes of it (it is told to the record, tried again,
given to another agent, given back) it is put into its mailbox, where everybody looks.
"""

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from typing import Final

from broker.streams.connection import Argument, Connection, Reply
from broker.streams.keys import Keys
from broker.streams.scripts import CLAIM, SHELVE
from broker.telemetry import metrics
from schema.codec import decode_stored_envelope
from schema.errors import BrokerError
from schema.message import lane_of
from workers.delivery.items import Item, Mailbox
from workers.delivery.mailroom import Mailroom

BATCH_MAX: Final = 128
_LEFT_PAGE: Final = 64
_SHELVED: Final = metrics.SHELVED.child()


class Shelver:
    """Shelves for one delivery owner. `life`: its name, which nobody has used before; `unserved` hears of
    mailboxes that are not pushed from by then."""

    def __init__(
        self,
        connection: Connection,
        keys: Keys,
        room: Mailroom,
        *,
        life: str,
        owner: Callable[[], str],
        now_ms: Callable[[], int],
        set_aside: Callable[[str, bytes, Exception, int], None],
        unserved: Callable[[str], None],
        on_room: Callable[[], None],
        on_error: Callable[[BrokerError], None],
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._room = room
        self.life = life
        """By this name routers hand messages to this owner."""
        self._prefix = f"{life[-12:]}."
        self._numbers = count(1)
        self._owner = owner
        self._now_ms = now_ms
        self._set_aside = set_aside
        self._unserved = unserved
        self._on_room = on_room
        self._on_error = on_error
        self._loop = asyncio.get_running_loop()
        self._coming: list[Item] = []
        self._calls = 0
        self._quiet = asyncio.Event()

    def new_name(self) -> str:
        """Return a name for a message that is handed over: they sort by the number at their end."""
        return f"{self._prefix}{next(self._numbers)}"

    def shelve(self, item: Item, then: Callable[[], None]) -> None:
        """Put an item into its mailbox, unless it is on its way there; `then` comes when it is there. It
        stays in memory: a read that meets it there passes over it."""
        if item.shelving is None:
            if not self._coming:
                self._loop.call_soon(self._flush)
            self._coming.append(item)
            item.direct, item.shelving, item.shelved = False, [], True
        item.shelving.append(then)

    def give_back(self, items: Sequence[Item], *, then: Callable[[Item], None] | None = None) -> None:
        """Put items into their mailboxes that are held in memory no more; from there they are read back.
        `then` comes with each that is there."""
        for item in items:
            item.direct, item.shelving = False, [] if then is None else [partial(then, item)]
            item.mailbox.coming += 1  # It stays open until they are there, and is behind from then on.
        for start in range(0, len(items), BATCH_MAX):
            self._send(items[start : start + BATCH_MAX])

    async def drain(self) -> None:
        """Wait until everything has its place."""
        self._flush()
        while self._calls:
            self._quiet.clear()
            await self._quiet.wait()

    async def take_over(self) -> None:
        """Have messages handed over from now on, and put into their mailboxes what an owner before has left.
        Raises: BrokerError."""
        keys = self._keys
        names = await self._connection.evaluate(
            CLAIM, (keys.owner("deliver"), keys.direct, keys.direct_to), self._owner(), self.life
        )
        # As they were handed over: their numbers stand at the end of their names.
        names.sort(key=_number)
        # Once at least: the script is known to the server then, and is not overtaken by what follows it.
        for start in range(0, max(1, len(names)), _LEFT_PAGE):
            await self._shelve_left(names[start : start + _LEFT_PAGE])

    # --- inside ---------------------------------------------------------------------------------------

    async def _shelve_left(self, names: list[bytes]) -> None:
        messages = await self._connection.send("HMGET", self._keys.direct, *names) if names else []
        script_keys: list[Argument] = [self._keys.owner("deliver"), self._keys.direct, self._keys.active]
        arguments: list[Argument] = [self._owner(), self._now_ms()]
        for name, message in zip(names, messages, strict=True):
            # None: settled by a last call of the owner before.
            mailbox = None if message is None else self._mailbox_of(name, message)
            if mailbox is not None:
                script_keys.append(mailbox)
                arguments += (name, message, int(self._room.has_agent(mailbox)))
        await self._connection.evaluate(SHELVE, script_keys, *arguments)
        _SHELVED.inc(len(script_keys) - 3)

    def _mailbox_of(self, name: bytes, message: bytes) -> str | None:
        """Return where a message belongs; None for what is none: it is set aside, or every owner would meet
        it again."""
        try:
            envelope = decode_stored_envelope(message)
            if envelope.to_agent_id is None:
                raise ValueError("no recipient")
            return self._keys.mailbox(envelope.to_agent_id, lane_of(envelope.priority))
        except Exception as error:  # whatever somebody has written there
            self._set_aside(name.decode("utf-8", "replace"), message, error, self._now_ms())
            return None

    def _flush(self) -> None:
        while self._coming:
            items, self._coming = self._coming[:BATCH_MAX], self._coming[BATCH_MAX:]
            self._send(items)

    def _send(self, items: Sequence[Item]) -> None:
        keys, now_ms = self._keys, self._now_ms()
        script_keys: list[Argument] = [keys.owner("deliver"), keys.direct, keys.active]
        arguments: list[Argument] = [self._owner(), now_ms]
        for item in items:
            mailbox = item.mailbox
            # Also when its books are closed: for whoever owns it when its agent, now paused, is active again.
            active = self._room.has_agent(mailbox.key)
            script_keys.append(mailbox.key)
            arguments += (item.entry, item.body, int(active))
            mailbox.is_used = True
            mailbox.active = mailbox.active or active
        self._calls += 1
        self._connection.run(SHELVE, script_keys, arguments, partial(self._shelved, items))

    def _shelved(self, items: Sequence[Item], reply: Reply) -> None:
        self._calls -= 1
        self._quiet.set()
        if isinstance(reply, BrokerError):
            self._on_error(reply)
            return
        _SHELVED.inc(len(items))
        for item, entry in zip(items, reply, strict=True):
            item.entry = entry.decode()
            if item.shelved:
                self._room.out_of_turn.add(item.place)
                if item.mailbox.closed:
                    self._unserved(item.mailbox.key)
            else:
                self._given_back(item.mailbox)
            waiting, item.shelving = item.shelving, None
            for go in waiting or ():
                go()
        self._on_room()

    def _given_back(self, mailbox: Mailbox) -> None:
        # Not always the same: its books may have been closed, and opened anew, meanwhile.
        served = self._room.mailbox_at(mailbox.key)
        if served is not None:
            self._room.fall_behind(served)
        else:
            self._unserved(mailbox.key)
        self._room.came(mailbox)


def _number(name: bytes) -> int:
    number = name.rpartition(b".")[2]
    return int(number) if number.isdigit() else 0
