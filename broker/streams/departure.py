"""What lies in Redis for an agent that leaves: counting it, and ending it. The recorder tells the senders."""

from typing import Final

import msgspec
from msgspec import Raw, UnsetType

from broker.core.quarantine import set_aside
from broker.streams.connection import Argument, Connection, Reply
from broker.streams.keys import Keys
from broker.streams.scripts import DEPART
from schema.codec import decode_stored_envelope, encode
from schema.errors import Rejected
from schema.ids import shard_of
from schema.ledger import Event, EventKind
from schema.message import LANES, Lane, Reason, Status

BATCH_MAX: Final = 64
"""Entries per script call."""


async def count_waiting(connection: Connection, agent_id: str, *, shards: int) -> int:
    """Return how many messages lie in an agent's mailboxes. Raises: StreamsUnavailable."""
    keys = Keys(shard_of(agent_id, shards))
    lengths = await connection.send_many([("XLEN", keys.mailbox(agent_id, lane)) for lane in LANES])
    return sum(lengths)


async def return_all(connection: Connection, agent_id: str, *, shards: int, now_ms: int) -> int:
    """End everything that waits for a deleted agent as failed; return how many ended.

    What another ended meanwhile is left alone. Raises: StreamsUnavailable, StreamsFull.
    """
    keys = Keys(shard_of(agent_id, shards))
    count = 0
    for lane in LANES:
        left = 1
        while left:
            taken, left = await _return_some(connection, keys, agent_id, lane, now_ms)
            count += taken
    # Nobody waits for its return: without this it would count as online for another minute.
    await connection.send("ZREM", keys.presence, agent_id)
    return count


async def _return_some(
    connection: Connection, keys: Keys, agent_id: str, lane: Lane, now_ms: int
) -> tuple[int, int]:
    """Return how many messages of one lane ended now, and how many are left in it."""
    mailbox = keys.mailbox(agent_id, lane)
    entries: Reply = await connection.send("XRANGE", mailbox, "-", "+", "COUNT", BATCH_MAX)
    arguments: list[Argument] = []
    for entry, fields in entries:
        arguments += (entry, encode(_ending(agent_id, mailbox, entry.decode(), fields, now_ms)))
    taken, left = await connection.evaluate(
        DEPART, (mailbox, keys.ledger, keys.expiry, keys.active), *arguments
    )
    return taken, left


def _ending(agent_id: str, mailbox: str, entry: str, fields: list[bytes], now_ms: int) -> Event:
    """Return the ledger event of an entry."""
    named = dict(zip(fields[::2], fields[1::2], strict=True))
    raw = named.get(b"m", b"")
    try:
        message = decode_stored_envelope(raw)
    except (msgspec.MsgspecError, Rejected, UnicodeDecodeError):
        detail = "found in the mailbox of a deleted agent"
        return set_aside(raw, stream=mailbox, entry=entry, detail=detail, now_ms=now_ms)
    return Event(
        kind=EventKind.SETTLED,
        id=message.id,
        at_ms=now_ms,
        message=Raw(raw),
        to=agent_id,
        status=Status.FAILED,
        reason=Reason.RECIPIENT_DELETED.value,
        waiter=named[b"w"].decode() if b"w" in named else None,
        round=0 if isinstance(message.round, UnsetType) else message.round,
    )
