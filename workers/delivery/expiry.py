"""Messages whose time has come: whoever deletes the entry writes how it ended, so each expires once.

Covers every place of a shard where a message can wait: mailboxes of endpoints and of pullers, parked streams,
retries. What is in flight is left alone: its result ends it.
"""

from typing import Final

from msgspec import Raw

from broker.streams.connection import Connection, Reply
from broker.streams.keys import Keys
from broker.streams.scripts import EXPIRE
from schema.codec import decode_stored_envelope, encode
from schema.ids import is_id
from schema.ledger import Event, EventKind
from schema.message import Reason, Status
from workers.delivery.items import Item, Mailbox
from workers.delivery.mailroom import Mailroom
from workers.delivery.outcome import quarantined

BATCH_MAX: Final = 128


class Expiry:
    """Takes what has expired off one shard."""

    def __init__(self, connection: Connection, keys: Keys, room: Mailroom) -> None:
        self._connection = connection
        self._keys = keys
        self._room = room
        self.is_behind = False
        """Whether more may be due than was taken: the last take was as large as it may be."""

    async def take(self, owner: str, *, now_ms: int) -> list[Item]:
        """Expire what is due: entries in Redis here and now; items waiting in memory are returned, for the
        caller to settle. Raises: Fenced, StreamsUnavailable."""
        items: list[Item] = []
        in_redis: list[tuple[str, str]] = []
        looked_at = 0
        while True:
            members = await self._connection.send(
                "ZRANGEBYSCORE", self._keys.expiry, "-inf", now_ms, "LIMIT", looked_at, BATCH_MAX
            )
            for member in members:
                key, _, entry = member.decode().rpartition("|")
                mailbox = self._room.mailboxes.get(key)
                if mailbox is None or self._lies_in_redis(mailbox, entry):
                    in_redis.append((key, entry))
                elif (item := self._room.take_out(mailbox, entry)) is not None:
                    items.append(item)
            if in_redis or items or len(members) < BATCH_MAX:
                break
            # All of them in flight, as many as the shard's quota may be: what has expired lies behind them.
            looked_at += BATCH_MAX
        # Only where something ended: what is in flight stays where it is, and would be read again and again.
        self.is_behind = len(members) == BATCH_MAX and bool(in_redis or items)
        if in_redis:
            expiring = {f"{key}|{entry}" for key, entry in in_redis}
            # Or one that is read into memory meanwhile would end twice.
            self._room.expiring |= expiring
            await self._expire(in_redis, owner, now_ms=now_ms)
            self._room.expiring -= expiring
        return items

    def _lies_in_redis(self, mailbox: Mailbox, entry: str) -> bool:
        """Tell whether an entry is only in Redis: not read yet, or waiting for a retry."""
        return f"{mailbox.key}|{entry}" in self._room.waiting or _number(entry) > _number(mailbox.cursor)

    async def _expire(self, places: list[tuple[str, str]], owner: str, *, now_ms: int) -> None:
        found = await self._connection.send_many([("XRANGE", key, entry, entry) for key, entry in places])
        keys = [
            self._keys.owner("deliver"),
            self._keys.ledger,
            self._keys.expiry,
            *(key for key, _ in places),
        ]
        arguments: list[str | bytes] = [owner]
        for (key, entry), entries in zip(places, found, strict=True):
            # One that is gone already gets no event; the script only takes it off the list.
            arguments += (entry, _event(key, entries[0], now_ms) if entries else b"")
        await self._connection.evaluate(EXPIRE, keys, *arguments)


def _event(stream: str, entry: Reply, now_ms: int) -> bytes:
    """Return the event of an entry whose time has come; of one that is no message, what keeps its bytes."""
    try:
        envelope = decode_stored_envelope(entry[1][1])
    except Exception as error:  # whatever somebody has written there must not stop the others
        raw = b" ".join(entry[1])
        return encode(quarantined(stream, entry[0].decode(), raw, error=error, now_ms=now_ms))
    to = envelope.to_agent_id
    return encode(
        Event(
            kind=EventKind.SETTLED,
            id=envelope.id,
            at_ms=now_ms,
            message=Raw(entry[1][1]),
            to=to if to is not None and is_id(to) else None,
            status=Status.EXPIRED,
            reason=Reason.EXPIRED.value,
        )
    )


def _number(entry: str) -> tuple[int, int]:
    moment, sequence = entry.split("-")
    return int(moment), int(sequence)
