"""Tells the record of messages that were left to an agent that pulls by now.

What is posted from memory is told to the record when it ends, or after a moment. An owner that dies before
has the next one read it back and push it; but where its agent has given up its endpoint meanwhile nobody
does, and who pulls over HTTP sees what is on record only. Such mailboxes are still on the active set: they
are read once, page by page, told, and taken off it. Telling what is on record already changes nothing there.
So are those of an agent that gives up its endpoint now: not all of it need have been in memory.
"""

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from msgspec import Raw

from broker.streams.connection import Connection, Reply
from broker.streams.keys import Keys, mailbox_owner
from broker.streams.settlement import Settlement, call_settle
from schema.codec import decode_stored_envelope, encode
from schema.errors import BrokerError
from schema.ledger import Event, EventKind
from schema.message import LANES
from workers.delivery.mailroom import Mailroom
from workers.delivery.outcome import quarantined

PAGE: Final = 128
TOLD_MS: Final = 3_000
"""Far longer than it takes until what was held in memory lies in its mailbox."""
AT_ONCE_MAX: Final = 512
"""Agents asked about in one tick: a directory that is read anew names every one that pulls."""


class LeftToPull:
    """Goes through such mailboxes of one shard, one page a tick."""

    def __init__(
        self,
        connection: Connection,
        keys: Keys,
        room: Mailroom,
        *,
        owner: Callable[[], str],
        now_ms: Callable[[], int],
        on_error: Callable[[BrokerError], None],
    ) -> None:
        self._connection = connection
        self._keys = keys
        self._room = room
        self._owner = owner
        self._now_ms = now_ms
        self._on_error = on_error
        self._left: dict[str, str] = {}
        """Mailboxes, and the last entry of each that was read."""
        self._is_reading = False
        self._leaving: deque[tuple[int, str]] = deque()

    def leave(self, agent_id: str) -> None:
        """Look after the mailboxes of an agent that pulls from now on, when all held of them lies there."""
        self._leaving.append((self._now_ms() + TOLD_MS, agent_id))

    def note(self, key: str) -> None:
        """Remember a mailbox of the active set that is not pushed from."""
        if self._room.is_pulled(key):
            self._left.setdefault(key, "0-0")

    def go_on(self) -> None:
        """Do what is due: ask what is still on the set, and read and tell a page unless one is under way."""
        now_ms = self._now_ms()
        for _ in range(AT_ONCE_MAX):
            if not self._leaving or self._leaving[0][0] > now_ms:
                break
            _, agent_id = self._leaving.popleft()
            keys = [self._keys.mailbox(agent_id, lane) for lane in LANES]
            self._connection.call(("ZMSCORE", self._keys.active, *keys), partial(self._note_active, keys))
        while self._left and not self._is_reading:
            key, cursor = next(iter(self._left.items()))
            if not self._room.is_pulled(key):
                del self._left[key]  # Whoever serves it now reads it from the start.
                continue
            self._is_reading = True
            command = ("XRANGE", key, f"({cursor}", "+", "COUNT", PAGE)
            self._connection.call(command, partial(self._tell, key))

    # --- inside ---------------------------------------------------------------------------------------

    def _note_active(self, keys: Sequence[str], reply: Reply) -> None:
        if isinstance(reply, BrokerError):
            self._on_error(reply)
            return
        for key, since_ms in zip(keys, reply, strict=True):
            if since_ms is not None:
                self.note(key)

    def _tell(self, key: str, reply: Reply) -> None:
        if isinstance(reply, BrokerError):
            self._on_error(reply)
            return
        if len(reply) == PAGE:
            self._left[key] = reply[-1][0].decode()
        else:
            del self._left[key]  # What is put there from now on is noted anew.
        settlement = Settlement()
        for entry, fields in reply:
            if not self._room.is_spoken_for(f"{key}|{entry.decode()}"):
                self._add(settlement, key, entry.decode(), fields)
        told = partial(self._told, key)
        if settlement.is_empty:
            told(0)
        else:
            call_settle(self._connection, self._keys, settlement, owner=self._owner(), on_reply=told)

    def _add(self, settlement: Settlement, key: str, entry: str, fields: list[bytes]) -> None:
        now_ms = self._now_ms()
        try:
            envelope = decode_stored_envelope(fields[1])
            event = Event(
                kind=EventKind.ROUTED,
                id=envelope.id,
                at_ms=now_ms,
                message=Raw(fields[1]),
                to=mailbox_owner(key)[0],
                mailbox_entry=entry,
                waiter=(fields[3].decode() or None) if len(fields) > 3 else None,
                round=envelope.round or 0,
            )
            written = encode(event)
        except Exception as error:  # whatever somebody has written there
            written = encode(quarantined(key, entry, b" ".join(fields), error=error, now_ms=now_ms))
            settlement.finished.setdefault(key, []).append(entry)
        settlement.events.append(written)

    def _told(self, key: str, reply: Reply) -> None:
        self._is_reading = False
        if isinstance(reply, BrokerError):
            self._on_error(reply)
        elif key not in self._left and self._room.is_pulled(key):
            # Only now: an owner that dies before leaves the rest to the next.
            self._connection.call(("ZREM", self._keys.active, key), self._removed)

    def _removed(self, reply: Reply) -> None:
        if isinstance(reply, BrokerError):
            self._on_error(reply)
