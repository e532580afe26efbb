"""Write folded rows: one transaction, harmless to repeat, a status never moved backwards.

Most messages are finished at their first attempt before they are first recorded. A batch of such goes
straight into its day's partitions by one statement, which is a transaction by itself and refused where any of
it is known; so do many of them among others. Everything else is merged: new messages and attempts by one
statement, rows of messages written before, and quarantined entries, in the same transaction.

It does not decide what a bad row means: `broker.store.salvage` does.
"""

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Final

import asyncpg

from broker.core.fold import AttemptRow, MessageRow, Rows
from broker.store import bounces, packing, quarantine
from broker.store.bounces import Ended
from broker.store.faults import PartitionMissing
from broker.store.pool import Connection, Pool
from broker.store.statements import load
from broker.store.window import EVER, made_within
from schema.errors import DataFault
from schema.ledger import Progress
from schema.message import Status
from schema.times import as_utc, from_ms

_MESSAGES: Final = load("record_messages").format(attempts="message_delivery_log")
_NEW: Final = load("record_new")
_UPDATES: Final = load("record_updates")
_AGENTS: Final = load("record_attempt_agents")
NEW_AMONG_OTHERS_MIN: Final = 128
"""Below, the statement more that new messages among others take costs what it saves."""
TOLD_RESULT_CHARS_MAX: Final = 4_096
"""Who waits for a message with a longer result reads it: words over pub/sub are kept short."""
_BAD: Final = (Status.FAILED, Status.EXPIRED)
_DELIVERED: Final = Status.DELIVERED
_PROCESSED: Final = Status.PROCESSED
_DAY_MS: Final = 86_400_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_ORDINAL: Final = _EPOCH.toordinal()


async def write(pool: Pool, rows: Rows) -> list[str]:
    """Write all rows or none; return the ids of messages that were to be changed and are not there.

    Raises: StoreUnavailable, DataFault, PartitionMissing.
    """
    new = [row for row in rows.messages if is_new(row)]
    if new and (len(new) == len(rows.messages) or len(new) >= NEW_AMONG_OTHERS_MIN):
        try:
            if (days := _one_day(new, rows)) is not None:
                return await _insert(pool, rows, new, *days)
        except DataFault:
            pass  # Some of it is known already, or is refused: merging tells which.
    return await _merge(pool, rows)


def is_new(row: MessageRow) -> bool:
    """Tell whether a row is of a message finished at its first attempt, so that nothing is on record yet."""
    return (
        (row.status is _DELIVERED or row.status is _PROCESSED)
        and row.message is not None
        and row.retry_count == 0
        and row.round == 0
        and row.to is not None
        and row.delivered_ms is not None
        and row.placed_ms is not None
        and row.mailbox_entry is None
        and row.reason is None
    )


def _one_day(new: list[MessageRow], rows: Rows) -> tuple[str, str] | None:
    """Return the partitions that new messages and the attempts go into; None where `_insert` cannot take
    them: they are of several days, or somebody waits for a result, which only the database knows how it
    writes."""
    waited = {message_id for _, message_id in rows.waiting}
    if waited and any(row.result is not None and row.id in waited for row in new):
        return None
    try:
        messages = {row.created_at.toordinal() for row in new if row.created_at is not None}
        attempts = {row.attempt.attempted_ms // _DAY_MS for row in rows.attempts}
        if len(messages) != 1 or len(attempts) > 1:
            return None
        day = messages.pop() - _EPOCH_ORDINAL
        return _partition("agent_messages", day), _partition(
            "message_delivery_log", attempts.pop() if attempts else day
        )
    except OverflowError:
        return None


@lru_cache(64)
def _partition(table: str, day: int) -> str:
    """Return the name of a table's partition of a day (UTC, counted from 1970)."""
    return f"{table}_p{_EPOCH + timedelta(days=day):%Y%m%d}"


async def _insert(pool: Pool, rows: Rows, new: list[MessageRow], messages: str, attempts: str) -> list[str]:
    """Insert new messages and all attempts into these partitions by one statement; write what else there is
    in the same transaction."""
    statement = _NEW.format(messages=messages, attempts=attempts)
    packed = packing.new(new, rows.attempts)
    others = [row for row in rows.messages if not is_new(row)] if len(new) < len(rows.messages) else []
    named = _whose(rows.attempts)
    missing: list[str] = []
    is_alone = not (others or rows.quarantine or named)
    async with pool.connection() if is_alone else pool.transaction() as connection:
        try:
            await connection.execute(statement, *packed)
        except asyncpg.UndefinedTableError as error:
            raise PartitionMissing(str(error)) from error
        if not is_alone:
            missing = await _write_others(connection, rows, others, named)
    if rows.waiting:
        written = {row.id: row for row in new}
        rows.progress.update((id, _progress(written[id])) for _, id in rows.waiting if id in written)
    return missing


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


async def _write_others(
    connection: Connection, rows: Rows, others: list[MessageRow], named: list[AttemptRow]
) -> list[str]:
    """Write what a batch of new messages holds beside them."""
    await _name_agents(connection, named)
    whole = [row for row in others if row.message is not None]
    if whole:
        await connection.execute(_MESSAGES, *packing.known(whole, [], []))
    missing, ended = await _change(connection, [row for row in others if row.message is None])
    await quarantine.insert(connection, rows.quarantine)
    await _tell(connection, ended + _badly_ended(whole))
    return missing


async def _merge(pool: Pool, rows: Rows) -> list[str]:
    """Write all by statements that find out what is new and what is not."""
    whole = [row for row in rows.messages if row.message is not None]
    changes = [row for row in rows.messages if row.message is None]
    packed = packing.known(whole, rows.attempts, [message_id for _, message_id in rows.waiting])
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
        found = await connection.fetch(_UPDATES, *packing.changes(list(left.values())), *window)
        for record in found:
            message_id = str(record["id"])
            left.pop(message_id, None)
            if message_id in bad:
                ended.append((message_id, record["created_at"]))
    return list(left), ended
