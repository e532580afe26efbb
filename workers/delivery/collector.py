"""Reads back what is not in memory: backlogs, retries that are due, everything at a takeover.

Reads are plain pipelined commands: only the settle of what is read needs a fence. Takeover: entries that are
neither waiting for a retry nor settled were under way when the last owner died, and are sent again with the
same id. Retries it had under way keep their count of attempts, through the mark in the due set.
"""

from collections.abc import AsyncIterator, Callable
from functools import partial
from itertools import islice
from typing import Final

from broker.streams.connection import Connection, Reply
from broker.streams.keys import Keys, mailbox_owner
from broker.streams.scripts import PUT_BACK, TAKE_DUE
from schema.codec import decode_stored_envelope
from schema.errors import BrokerError
from schema.limits import (
    COLLECT_ENTRIES_PER_MAILBOX_MAX,
    COLLECT_MAILBOXES_MAX,
    DUE_BATCH_MAX,
)
from workers.delivery.items import Item, Mailbox, item_of, unreadable
from workers.delivery.mailroom import Mailroom

UNDER_WAY: Final = 9_000_000_000_000_000
"""Score of a retry that has been taken: far beyond any time, below 2**53 so that it is exact."""
HOMELESS_MS: Final = 60_000
"""How long a due retry is put off whose agent has no endpoint at the moment."""
EXPIRING_MS: Final = 50
"""When a due retry is looked at again that is being expired: that takes a millisecond."""
READS_MAX: Final = 4 * COLLECT_MAILBOXES_MAX
"""Reads under way at once. After a takeover very many mailboxes are behind; all of them asked about together
would hold up what is routed meanwhile, and bring more than memory is meant to hold."""
_PAGE: Final = 1_000


class Collector:
    """Reads mailboxes and the due set of one shard into its mailroom. `unserved` hears of active mailboxes
    that are not pushed from."""

    def __init__(
        self,
        connection: Connection,
        keys: Keys,
        room: Mailroom,
        *,
        hold: Callable[[Item, int], None],
        set_aside: Callable[[Item, Exception, int], None],
        unserved: Callable[[str], None],
        now_ms: Callable[[], int],
        on_error: Callable[[BrokerError], None],
    ) -> None:
        self._connection = connection
        self._hold = hold
        self._set_aside = set_aside
        self._unserved = unserved
        self._now_ms = now_ms
        self._on_error = on_error
        self._keys = keys
        self._room = room
        self.next_due_ms: int | None = None
        self._reads = 0

    async def take_over(self, owner: str) -> None:
        """Load what the last owner left: retries first, so that reading mailboxes can pass over them."""
        async for members in self._members(self._keys.due):
            for member in members:
                place, _, _ = member.rpartition("|")
                if place not in self._room.waiting:
                    self._room.wait(self._room.mailbox_at(place.rpartition("|")[0]), place)
        taken = await self._connection.send("ZRANGEBYSCORE", self._keys.due, UNDER_WAY, UNDER_WAY)
        await self._put_back(taken, owner, due_ms=0)
        await self.sweep()

    async def sweep(self) -> None:
        """Look at every active mailbox anew: the active set is the truth about who needs service."""
        async for mailboxes in self._members(self._keys.active):
            for key in mailboxes:
                if self.ring(key) is None:
                    self._unserved(key)

    def ring(self, key: str) -> Mailbox | None:
        """Note that a mailbox may hold entries that are not in memory; None: its agent has no endpoint."""
        mailbox = self._room.mailbox_at(key)
        if mailbox is not None:
            self._room.fall_behind(mailbox)
        return mailbox

    def collect(self, on_collected: Callable[[Mailbox], None]) -> int:
        """Ask for the next entries of mailboxes that are behind and have room; return how many were asked.

        What comes is taken in as the replies are parsed, not a turn of the loop later: a routed message whose
        reply follows must find the mailbox as the read left it.
        """
        hungry = self._room.hungry
        at_most = min(COLLECT_MAILBOXES_MAX, READS_MAX - self._reads)
        wanted = [hungry.pop(key) for key in tuple(islice(hungry, max(0, at_most)))]
        for mailbox in wanted:
            mailbox.collecting = True
            cursor = mailbox.cursor
            count = min(COLLECT_ENTRIES_PER_MAILBOX_MAX, self._room.room_of(mailbox))
            self._reads += 1
            self._room.coming += count
            command = ("XRANGE", mailbox.key, f"({cursor}", "+", "COUNT", count)
            self._connection.call(command, partial(self._collected, mailbox, cursor, count, on_collected))
        return len(wanted)

    def due_by(self, due_ms: int) -> bool:
        """Note that a retry is due then; tell whether it is the first to come."""
        if self.next_due_ms is not None and self.next_due_ms <= due_ms:
            return False
        self.next_due_ms = due_ms
        return True

    async def take_due(self, owner: str, *, now_ms: int) -> tuple[list[Item], list[Mailbox]]:
        """Read retries that are due; they are marked as under way. Also return the mailboxes of those whose
        message is gone: they hold up nothing any more. Raises: Fenced, StreamsUnavailable."""
        self.next_due_ms = None
        members, next_ms, _ = await self._connection.evaluate(
            TAKE_DUE, (self._keys.owner("deliver"), self._keys.due), owner, DUE_BATCH_MAX, UNDER_WAY
        )
        if next_ms and float(next_ms) < UNDER_WAY:
            self.due_by(int(float(next_ms)))
        wanted = [member.decode().split("|") for member in members]
        replies = await self._connection.send_many(
            [("XRANGE", key, entry, entry) for key, entry, _ in wanted]
        )
        items, freed, gone, homeless, expiring = [], [], [], [], []
        for member, (key, entry, attempts), entries in zip(members, wanted, replies, strict=True):
            mailbox = self._room.mailbox_at(key)
            if entries and f"{key}|{entry}" in self._room.expiring:
                # Not dropped before that is done: with an owner that dies in between its count would go too.
                expiring.append(member)
            elif not entries:
                gone.append(member)
                self._room.wake(f"{key}|{entry}")
                if mailbox is not None:
                    freed.append(mailbox)
            elif mailbox is None:
                homeless.append(member)
            else:
                self._room.wake(f"{key}|{entry}")
                self._room.out_of_turn.add(f"{key}|{entry}")
                item = self._read(mailbox, entries[0], now_ms, attempts=int(attempts))
                if item is not None:
                    items.append(item)
        if gone:
            # Finished elsewhere meanwhile (cancelled, or its agent said so): nothing is owed any more.
            await self._connection.send("ZREM", self._keys.due, *gone)
        await self._put_back(homeless, owner, due_ms=now_ms + HOMELESS_MS)
        if expiring:
            await self._put_back(expiring, owner, due_ms=now_ms)
            self.due_by(now_ms + EXPIRING_MS)
        return items, freed

    async def hasten(self, agents: set[str], owner: str) -> None:
        """Let all retries of these agents be due now. Nothing may be taken meanwhile: it looks at all that
        wait, in pages, which is dear and rare. Raises: Fenced, StreamsUnavailable."""
        found: list[bytes] = []
        cursor: str | bytes = "0"
        while True:
            cursor, page = await self._connection.send("ZSCAN", self._keys.due, cursor, "COUNT", _PAGE)
            for member, score in zip(page[::2], page[1::2], strict=True):
                if float(score) < UNDER_WAY and mailbox_owner(member.decode().split("|")[0])[0] in agents:
                    found.append(member)
            if cursor == b"0":
                break
        await self._put_back(found, owner, due_ms=0)

    def give_back(self, members: list[str], owner: str, *, due_ms: int) -> None:
        """Let retries that were taken wait again."""
        keys = (self._keys.owner("deliver"), self._keys.due)
        for start in range(0, len(members), _PAGE):
            page = members[start : start + _PAGE]
            self._connection.run(PUT_BACK, keys, (owner, due_ms, *page), self._given_back)

    def _given_back(self, reply: Reply) -> None:
        if isinstance(reply, BrokerError):
            self._on_error(reply)

    async def _put_back(self, members: list[bytes], owner: str, *, due_ms: int) -> None:
        keys = (self._keys.owner("deliver"), self._keys.due)
        for start in range(0, len(members), _PAGE):
            page = members[start : start + _PAGE]
            await self._connection.evaluate(PUT_BACK, keys, owner, due_ms, *page)

    async def _members(self, key: str) -> AsyncIterator[list[str]]:
        """Yield all members of a sorted set, perhaps some twice, in pages: a hundred thousand in one reply
        would hold up Redis, and then this process."""
        cursor: str | bytes = "0"
        while True:
            cursor, page = await self._connection.send("ZSCAN", key, cursor, "COUNT", _PAGE)
            yield [member.decode() for member in page[::2]]
            if cursor == b"0":
                return

    def _collected(
        self,
        mailbox: Mailbox,
        cursor: str,
        count: int,
        on_collected: Callable[[Mailbox], None],
        reply: Reply,
    ) -> None:
        self._reads -= 1
        self._room.coming -= count
        mailbox.collecting = False
        if isinstance(reply, BrokerError):
            self._on_error(reply)
            return
        if mailbox.closed:
            return
        if mailbox.cursor != cursor:
            # Its queue was given back to Redis meanwhile: what came lies behind what has to be read first.
            self._room.fall_behind(mailbox)
            return
        now_ms = self._now_ms()
        for entry in reply:
            mailbox.cursor = entry[0].decode()
            if not self._room.is_spoken_for(f"{mailbox.key}|{mailbox.cursor}"):
                item = self._read(mailbox, entry, now_ms)
                if item is not None:
                    self._hold(item, now_ms)
        if len(reply) == count or mailbox.again:
            self._room.fall_behind(mailbox)
        else:
            self._room.catch_up(mailbox)
        on_collected(mailbox)

    def _read(
        self, mailbox: Mailbox, entry: Reply, now_ms: int, *, attempts: int | None = None
    ) -> Item | None:
        """Return the item of an entry that was read, `attempts` of a retry; None for one that is no message:
        it is set aside, or it would be met again and again by every owner."""
        entry_id, fields = entry[0].decode(), entry[1]
        try:
            waiter = fields[3].decode() if len(fields) > 3 else ""
            item = item_of(mailbox, entry_id, decode_stored_envelope(fields[1]), fields[1], waiter)
        except Exception as error:  # whatever somebody has written there
            item = unreadable(mailbox, entry_id, b" ".join(fields))
            if attempts is not None:
                item.attempts, item.due_taken = attempts, True
            mailbox.held += 1
            self._set_aside(item, error, now_ms)
            return None
        if attempts is not None:
            item.attempts, item.due_taken, item.announced = attempts, True, True
        return item
