"""Save a batch in which something may be wrong: the good rows are written, the culprits are quarantined.

A missing partition is made, where the day is one the deployment keeps, and the batch tried once more.
Whatever the database still refuses is found by halving the batch, so one bad row costs about 2 log2(n)
transactions and never blocks the ledger. Repeating a save is harmless, as repeating a write is.
"""

from collections.abc import Iterable, Iterator
from datetime import date
from typing import Final

from msgspec import Struct, field

from broker.core.fold import AttemptRow, MessageRow, QuarantineRow, Rows
from broker.store import quarantine, record
from broker.store.faults import PartitionMissing
from broker.store.partitions import Kept, day_of, ensure_day
from broker.store.pool import Pool
from schema.codec import encode
from schema.errors import DataFault

STREAM: Final = "ledger"
"""What the quarantine names as the stream of a row the database refused."""

Item = MessageRow | AttemptRow | QuarantineRow


class Saved(Struct):
    """What became of a batch: rows refused, with the word of the database; changes that found no message."""

    refused: list[tuple[Item, DataFault]] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    @property
    def refused_messages(self) -> set[str]:
        """The ids of messages that are not in the record."""
        return {item.id for item, _ in self.refused if isinstance(item, MessageRow)}


async def save(pool: Pool, rows: Rows, *, kept: Kept, shard: int, now_ms: int) -> Saved:
    """Write what can be written, quarantine the rest. Raises: StoreUnavailable; part may be written then."""
    saved = Saved()
    try:
        saved.missing += await record.write(pool, rows)
        return saved
    except PartitionMissing:
        for day in sorted(_days(rows)):
            if day in kept:
                await ensure_day(pool, day)
    except DataFault:
        pass  # Found again, row by row.
    await _halve(pool, list(_items(rows)), saved)
    if saved.refused:
        culprits = [_culprit(item, fault, shard, now_ms) for item, fault in saved.refused]
        async with pool.transaction() as connection:
            await quarantine.insert(connection, culprits)
    return saved


async def _halve(pool: Pool, items: list[Item], saved: Saved) -> None:
    try:
        saved.missing += await record.write(pool, _rows(items))
    except DataFault as fault:
        if len(items) == 1:
            saved.refused.append((items[0], fault))
            return
        middle = len(items) // 2
        await _halve(pool, items[:middle], saved)
        await _halve(pool, items[middle:], saved)


def _items(rows: Rows) -> Iterator[Item]:
    yield from rows.messages
    yield from rows.attempts
    yield from rows.quarantine


def _rows(items: Iterable[Item]) -> Rows:
    rows = Rows()
    for item in items:
        match item:
            case MessageRow():
                rows.messages.append(item)
            case AttemptRow():
                rows.attempts.append(item)
            case QuarantineRow():
                rows.quarantine.append(item)
    return rows


def _days(rows: Rows) -> set[date]:
    days = {row.created_at.date() for row in rows.messages if row.created_at is not None}
    return days | {day_of(row.attempt.attempted_ms) for row in rows.attempts}


def _culprit(item: Item, fault: DataFault, shard: int, now_ms: int) -> QuarantineRow:
    return QuarantineRow(
        at_ms=now_ms,
        shard=shard,
        stream=STREAM,
        entry=_plain(_entry(item)),
        reason=fault.code,
        detail=_plain(fault.message),
        raw=encode(item),
    )


def _entry(item: Item) -> str:
    match item:
        case MessageRow():
            return item.id
        case AttemptRow(message_id=message_id, attempt=attempt):
            return f"{message_id}|{attempt.round}|{attempt.number}|{attempt.attempted_ms}"
        case QuarantineRow():
            return item.entry


def _plain(text: str) -> str:
    """Return the text as ASCII without control characters: what is written here must not fail as well."""
    return text.encode("ascii", "backslashreplace").decode().replace("\x00", "\\0")
