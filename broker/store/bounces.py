"""Bounces: senders are told of their messages that ended badly, each round of a message once.

`tell` belongs into the transaction that writes how messages ended: the mark on the row and the note in the
outbox commit with it or not at all, so a crash, a ledger read again, or two that write the same end, neither
lose a note nor double it. The outbox publishes it (`broker.store.outbox`).

A mass failure does not flood its sender: of what ends beyond BOUNCES_PER_WINDOW_MAX in a window of time only
the number is kept, by sender, and `close_windows` makes one note of it. While nobody closes windows the
number grows and nothing is lost by it.

Locks are taken in one order, messages before windows, so that no two wait for each other in a ring.
"""

from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime
from typing import Final

import asyncpg
import msgspec

from broker.core.bounce import BadEnd, Tally, admit, bounce_of, summary_of
from broker.store import outbox
from broker.store.pool import Connection, Pool
from broker.store.statements import load
from broker.telemetry import metrics
from schema.codec import encode
from schema.ids import new_id
from schema.limits import BOUNCES_PER_WINDOW_MAX
from schema.message import Envelope

_DUE: Final = load("bounces_due")
_LOCK: Final = load("bounce_windows_lock")
_WRITE: Final = load("bounce_windows_write")
_CLOSE: Final = load("bounce_windows_close")

# Of a transaction that is rolled back, and done again, these count twice.
_TOLD: Final = metrics.BOUNCES.child(outcome="told")
_HELD: Final = metrics.BOUNCES.child(outcome="held")
_SUMMED: Final = metrics.BOUNCES.child(outcome="summed")

Ended = tuple[str, datetime]
"""A message: its id and when it was created."""

_reasons: Final = msgspec.json.Decoder(dict[str, int])


async def tell(
    connection: Connection, ended: Sequence[Ended], *, told_max: int = BOUNCES_PER_WINDOW_MAX
) -> int:
    """Tell the senders of those messages that are on record as failed or expired by now, and of which they
    have not been told; return how many ends that were. Last in its transaction. Raises: what the driver
    raises."""
    rows = await connection.fetch(_DUE, [one for one, _ in ended], [at for _, at in ended])
    if not rows:
        return 0
    now: datetime = rows[0]["now"]
    by_sender: dict[str, list[BadEnd]] = defaultdict(list)
    for row in rows:
        end = _end(row)
        by_sender[end.from_agent_id].append(end)
    senders = sorted(by_sender)
    tallies = {
        str(row["agent_id"]): Tally(row["told"], row["held"], _reasons.decode(row["reasons"]))
        for row in await connection.fetch(_LOCK, senders)
    }
    notes: list[Envelope] = []
    for sender in senders:
        told = admit(tallies[sender], by_sender[sender], told_max=told_max)
        notes += [bounce_of(end, bounce_id=new_id(), now=now) for end in told]
    kept = [tallies[sender] for sender in senders]
    await connection.execute(
        _WRITE,
        senders,
        [tally.told for tally in kept],
        [tally.held for tally in kept],
        [encode(tally.reasons).decode() for tally in kept],
    )
    await outbox.add(connection, *notes, grace_ms=0)
    _TOLD.inc(len(notes))
    _HELD.inc(len(rows) - len(notes))
    return len(rows)


async def close_windows(pool: Pool, *, window_ms: int, limit: int) -> int:
    """End windows that are over, and tell their senders of what was only counted; return how many ended.

    Raises: StoreUnavailable.
    """
    async with pool.transaction() as connection:
        rows = await connection.fetch(_CLOSE, window_ms, limit)
        notes = [
            summary_of(
                str(row["agent_id"]),
                Tally(held=row["held"], reasons=_reasons.decode(row["reasons"])),
                since=row["began_at"],
                note_id=new_id(),
                now=row["now"],
            )
            for row in rows
            if row["held"]
        ]
        await outbox.add(connection, *notes, grace_ms=0)
    _SUMMED.inc(len(notes))
    return len(rows)


def _end(row: asyncpg.Record) -> BadEnd:
    return BadEnd(
        id=str(row["id"]),
        from_agent_id=str(row["from_agent_id"]),
        to_agent_id=None if row["to_agent_id"] is None else str(row["to_agent_id"]),
        to_agent_name=row["to_agent_name"],
        conversation_id=row["conversation_id"],
        message_type=row["message_type"],
        priority=row["priority"],
        root_id=None if row["root_id"] is None else str(row["root_id"]),
        hop=row["hop"],
        round=row["round"],
        status=row["status"],
        reason=row["status_reason"],
    )
