"""Write folded rows: one transaction, harmless to repeat, a status never moved backwards.

Most messages are finished at their first attempt before they are first recorded. A batch of such goes
straight into its day's partitions by one statement, which is a transaction by itself and refused where any of
it is known; many of them, alone or among others, are copied (`broker.store.copying`). Everything else is
merged: new messages and attempts by one statement, rows of messages written before, and quarantined entries,
in the same transaction.

It does not decide what a bad row means: `broker.store.salvage` does.
"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

import asyncpg
from msgspec import UNSET

from broker.core.fold import AttemptRow, MessageRow, Rows
from broker.store import bounces, copying, quarantine
from broker.store.bounces import Ended
from broker.store.columns import documents, numbers, texts
from broker.store.faults import PartitionMissing
from broker.store.pool import Connection, Pool
from broker.store.statements import load
from broker.store.window import EVER, made_within
from schema.codec import encode
from schema.errors import DataFault
from schema.ledger import Progress
from schema.message import Envelope, Status
from schema.times import as_utc, from_ms

_MESSAGES: Final = load("record_messages")
_NEW: Final = load("record_new")
_UPDATES: Final = load("record_updates")
_AGENTS: Final = load("record_attempt_agents")
COPIED_ROWS_MIN: Final = 256
"""Below, the four round trips more that copying takes, and packing fields, cost what it saves (measured)."""
TOLD_RESULT_CHARS_MAX: Final = 4_096
"""Who waits for a message with a longer result reads it: words over pub/sub are kept short."""
_BAD: Final = (Status.FAILED, Status.EXPIRED)
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND: Final = timedelta(microseconds=1)


async def write(pool: Pool, rows: Rows) -> list[str]:
    """Write all rows or none; return the ids of messages that were to be changed and are not there.

    Raises: StoreUnavailable, DataFault, PartitionMissing.
    """
    new = [row for row in rows.messages if copying.is_new(row)]
    try:
        if len(new) >= COPIED_ROWS_MIN:
            return await _copy(pool, rows, new)
        if new and len(new) == len(rows.messages) and (days := _one_day(rows)) is not None:
            return await _insert(pool, rows, *days)
    except DataFault:
        pass  # Some of it is known already, or is refused: merging tells which.
    return await _merge(pool, rows)


def _one_day(rows: Rows) -> tuple[str, str] | None:
    """Return the partitions that new messages and attempts go into; None where `_insert` cannot take them:
    they are of several days, or somebody waits for a result, which only the database knows how it writes."""
    if rows.quarantine or _whose(rows.attempts):
        return None
    if rows.waiting and any(row.result is not None for row in rows.messages):
        return None
    try:
        messages = {copying.partition_of_message(row) for row in rows.messages}
        attempts = {copying.partition_of_attempt(row) for row in rows.attempts}
    except OverflowError:
        return None
    return (messages.pop(), attempts.pop()) if len(messages) == len(attempts) == 1 else None


async def _insert(pool: Pool, rows: Rows, messages: str, attempts: str) -> list[str]:
    """Insert new messages and attempts into these partitions, by one statement."""
    packed = *_packed_new(rows.messages), *_packed_attempts(rows.attempts)
    async with pool.connection() as connection:
        try:
            await connection.execute(_NEW.format(messages=messages, attempts=attempts), *packed)
        except asyncpg.UndefinedTableError as error:
            raise PartitionMissing(str(error)) from error
    if rows.waiting:
        written = {row.id: row for row in rows.messages}
        rows.progress.update((id, _progress(written[id])) for _, id in rows.waiting)
    return []


def _progress(row: MessageRow) -> Progress:
    """Return what stands in a row that was inserted."""
    return Progress(
        row.status._value_,
        row.to,
        0,
        None if row.delivered_ms is None else from_ms(row.delivered_ms),
        None if row.processed_ms is None else from_ms(row.processed_ms),
        None,
        None,
        None,
    )


async def _copy(pool: Pool, rows: Rows, new: list[MessageRow]) -> list[str]:
    """Copy new messages and all attempts; write what else there is in the same transaction."""
    copies = copying.packed(new, rows.attempts)
    others = (
        [row for row in rows.messages if not copying.is_new(row)] if len(new) < len(rows.messages) else []
    )
    whole = [row for row in others if row.message is not None]
    async with pool.transaction() as connection:
        await copying.run(connection, copies)
        await _name_agents(connection, _whose(rows.attempts))
        if whole:
            await connection.execute(
                _MESSAGES, *_packed_messages(whole), *_packed_attempts([]), _requirements(whole), None
            )
        missing, ended = await _change(connection, [row for row in others if row.message is None])
        await quarantine.insert(connection, rows.quarantine)
        await _tell(connection, ended + _badly_ended(whole))
    return missing


async def _merge(pool: Pool, rows: Rows) -> list[str]:
    """Write all by statements that find out what is new and what is not."""
    whole = [row for row in rows.messages if row.message is not None]
    changes = [row for row in rows.messages if row.message is None]
    packed = (
        *_packed_messages(whole),
        *_packed_attempts(rows.attempts),
        _requirements(whole),
        texts([message_id for _, message_id in rows.waiting]),
    )
    ended = _badly_ended(whole)
    named = _whose(rows.attempts)
    if not (changes or rows.quarantine or ended or named):
        if whole or rows.attempts:
            _note_progress(rows, await pool.fetch(_MESSAGES, *packed))
        return []
    found: list[asyncpg.Record] = []
    async with pool.transaction() as connection:
        if whole or rows.attempts:
            found = await connection.fetch(_MESSAGES, *packed)
        await _name_agents(connection, named)
        missing, changed = await _change(connection, changes)
        await quarantine.insert(connection, rows.quarantine)
        await _tell(connection, ended + changed)
    _note_progress(rows, found)
    return missing


def _note_progress(rows: Rows, found: list[asyncpg.Record]) -> None:
    """Note what stands in the rows of messages that are waited for, now that it is committed."""
    for row in found:
        to, result = row["to_agent_id"], row["result"]
        if result is not None and len(result) > TOLD_RESULT_CHARS_MAX:
            continue
        rows.progress[str(row["id"])] = Progress(
            row["status"],
            None if to is None else str(to),
            row["retry_count"],
            row["delivered_at"],
            row["processed_at"],
            row["next_attempt_at"],
            row["status_reason"],
            result,
        )


def _whose(rows: list[AttemptRow]) -> list[AttemptRow]:
    """Return the attempts that say whose they were, as few do."""
    return [row for row in rows if row.attempt.agent_id is not None]


async def _name_agents(connection: Connection, named: list[AttemptRow]) -> None:
    if named:
        await connection.execute(
            _AGENTS,
            [row.message_id for row in named],
            [row.attempt.round for row in named],
            [row.attempt.number for row in named],
            [row.attempt.attempted_ms for row in named],
            [row.attempt.agent_id for row in named],
        )


async def _tell(connection: Connection, ended: list[Ended]) -> None:
    if ended:
        await bounces.tell(connection, ended)


def _badly_ended(rows: list[MessageRow]) -> list[Ended]:
    """Return those of whole messages that failed or expired and have a sender to be told of it."""
    return [
        (row.id, as_utc(row.created_at))
        for row in rows
        if row.status in _BAD
        and row.created_at is not None
        and row.message is not None
        and row.message.from_agent_id is not None
    ]


async def _change(connection: Connection, rows: list[MessageRow]) -> tuple[list[str], list[Ended]]:
    """Merge rows into messages written before, looking in their days first, then everywhere. Return the ids
    of those that are not there, and those that failed or expired."""
    left = {row.id: row for row in rows}
    bad = {row.id for row in rows if row.status in _BAD}
    ended: list[Ended] = []
    for window in (made_within(left), EVER):
        if not left:
            break
        found = await connection.fetch(_UPDATES, *_packed_changes(list(left.values())), *window)
        for record in found:
            message_id = str(record["id"])
            left.pop(message_id, None)
            if message_id in bad:
                ended.append((message_id, record["created_at"]))
    return list(left), ended


Packed = Sequence[str | None]


# `_value_` below is what `value` returns, without the 0.2 us a property of an Enum takes CPython 3.11.


def _packed_messages(rows: list[MessageRow]) -> Packed:
    """Return $1..$25 of record_messages.sql."""
    messages = [row.message for row in rows if row.message is not None]
    return (
        texts([row.id for row in rows]),
        texts([message.from_agent_id for message in messages]),
        texts([row.to for row in rows]),
        texts([message.root_id if message.root_id != message.id else None for message in messages]),
        texts([message.reply_to for message in messages]),
        numbers([_microseconds(row.created_at) for row in rows]),
        numbers([_microseconds(message.expires_at) for message in messages]),
        numbers([_deliver_at(message) for message in messages]),
        *_packed_progress(rows),
        numbers([message.priority for message in messages]),
        numbers([message.hop for message in messages]),
        numbers([row.round for row in rows]),
        texts([row.status._value_ for row in rows]),
        texts([message.message_type for message in messages]),
        texts([message.conversation_id for message in messages]),
        texts([row.mailbox_entry for row in rows]),
        texts([row.reason for row in rows]),
        documents([message.content for message in messages]),
        documents([message.metadata for message in messages]),
        documents([row.result for row in rows]),
        documents([row.route for row in rows]),
    )


def _packed_new(rows: list[MessageRow]) -> Packed:
    """Return $1..$21 of record_new.sql."""
    messages = [row.message for row in rows if row.message is not None]
    return (
        texts([row.id for row in rows]),
        texts([message.from_agent_id for message in messages]),
        texts([row.to for row in rows]),
        texts([message.root_id if message.root_id != message.id else None for message in messages]),
        texts([message.reply_to for message in messages]),
        numbers([_microseconds(row.created_at) for row in rows]),
        numbers([_microseconds(message.expires_at) for message in messages]),
        numbers([_deliver_at(message) for message in messages]),
        numbers([row.delivered_ms for row in rows]),
        numbers([row.processed_ms for row in rows]),
        numbers([row.placed_ms for row in rows]),
        numbers([message.priority for message in messages]),
        numbers([message.hop for message in messages]),
        texts([row.status._value_ for row in rows]),
        texts([message.message_type for message in messages]),
        texts([message.conversation_id for message in messages]),
        documents([message.content for message in messages]),
        documents([message.metadata for message in messages]),
        documents([row.result for row in rows]),
        documents([row.route for row in rows]),
        _requirements(rows),
    )


def _packed_changes(rows: list[MessageRow]) -> Packed:
    """Return $1..$13 of record_updates.sql."""
    return (
        texts([row.id for row in rows]),
        texts([row.to for row in rows]),
        *_packed_progress(rows),
        numbers([row.round for row in rows]),
        texts([row.status._value_ for row in rows]),
        texts([row.mailbox_entry for row in rows]),
        texts([row.reason for row in rows]),
        documents([row.result for row in rows]),
        documents([row.route for row in rows]),
    )


def _packed_progress(rows: list[MessageRow]) -> Packed:
    return (
        numbers([row.delivered_ms for row in rows]),
        numbers([row.processed_ms for row in rows]),
        numbers([row.next_attempt_ms for row in rows]),
        numbers([row.placed_ms for row in rows]),
        numbers([row.retry_count for row in rows]),
    )


def _packed_attempts(rows: list[AttemptRow]) -> Packed:
    """Return $26..$34 of record_messages.sql."""
    attempts = [row.attempt for row in rows]
    return (
        texts([row.message_id for row in rows]),
        numbers([attempt.round for attempt in attempts]),
        numbers([attempt.number for attempt in attempts]),
        texts([attempt.status._value_ for attempt in attempts]),
        numbers([attempt.response_code for attempt in attempts]),
        texts([attempt.response_body for attempt in attempts]),
        texts([attempt.error for attempt in attempts]),
        numbers([attempt.duration_ms for attempt in attempts]),
        numbers([attempt.attempted_ms for attempt in attempts]),
    )


def _requirements(rows: list[MessageRow]) -> str | None:
    """Return $35 of record_messages.sql."""
    needed = [row.message.requirements if row.message is not None else UNSET for row in rows]
    return texts([encode(one).decode() if isinstance(one, list) else None for one in needed])


def _deliver_at(message: Envelope) -> int | None:
    return _microseconds(message.deliver_at) if isinstance(message.deliver_at, datetime) else None


def _microseconds(moment: datetime | None) -> int | None:
    if moment is None:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // _MICROSECOND
