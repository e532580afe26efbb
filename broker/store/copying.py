"""Write messages that were finished at their first attempt, and attempts, by COPY straight into their days.

Most messages are like that. Nothing about them is on record, so nothing needs to be merged, and where that
turns out to be wrong (a ledger read again after a crash) the server refuses all of it and
`broker.store.record` merges instead. Against the merging statement this saves the server half of its time: no
text is parsed, no row is looked up before it is inserted, rows go in a page at a time.

COPY into a partition fires no trigger of the whole table, which would keep it from writing pages at
once: what statistics note of inserted rows (migration 5) is packed here instead, in the same transaction.

Invariant: what is copied says the same, to the microsecond, as what the statement would have written.
"""

import struct
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import compress
from typing import Final

import asyncpg
from msgspec import Raw, Struct

from broker.core.fold import AttemptRow, MessageRow
from broker.store import binary
from broker.store.binary import (
    MOMENT_TYPE,
    NULL,
    TEXT_TYPE,
    UUID_TYPE,
    array,
    document,
    document_head,
    integer,
    known_id,
    moment,
    moments,
    text,
    uuids,
    word,
)
from broker.store.faults import PartitionMissing
from broker.store.pool import Connection
from schema.codec import encode
from schema.errors import DataFault
from schema.message import Envelope, Status
from schema.times import as_utc

DAY_MS: Final = 86_400_000
DAY_US: Final = DAY_MS * 1_000
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_EPOCH_ORDINAL: Final = _EPOCH.toordinal()
_DELIVERED: Final = Status.DELIVERED
_PROCESSED: Final = Status.PROCESSED

# The order in which rows are packed: first what has a fixed size, last what few messages have.
_MESSAGE_COLUMNS: Final = (
    "id", "to_agent_id", "created_at", "delivered_at", "placed_at", "priority", "hop", "status",
    "message_type", "from_agent_id", "content", "metadata", "requirements", "route", "root_id", "reply_to",
    "expires_at", "deliver_at", "processed_at", "conversation_id", "result",
)  # fmt: skip
_ATTEMPT_COLUMNS: Final = (
    "message_id", "attempted_at", "round", "attempt", "duration_ms", "status", "response_code",
    "response_body", "error",
)  # fmt: skip
_NOTE_COLUMNS: Final = (
    "sign", "messages", "to_agents", "from_agents", "types", "statuses", "reasons", "created", "started",
    "delivered", "processed",
)  # fmt: skip
_START_OF_MESSAGE: Final = struct.pack(">hi", len(_MESSAGE_COLUMNS), 16)
_START_OF_ATTEMPT: Final = struct.pack(">hi", len(_ATTEMPT_COLUMNS), 16)
"""How many fields there are, and the length of the first one."""
_NONE_OF_THEM: Final = NULL * 7


class Copy(Struct):
    """Rows of one table, packed."""

    table: str
    columns: tuple[str, ...]
    rows: bytes


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


def packed(messages: Sequence[MessageRow], attempts: Sequence[AttemptRow]) -> list[Copy]:
    """Pack messages of which `is_new` is true, what statistics note of them, and attempts.

    Raises: DataFault when a value does not fit its column.
    """
    try:
        return [*_messages(messages), *_attempts(attempts)]
    except (ValueError, OverflowError, struct.error) as error:
        raise DataFault(f"cannot be packed: {error}") from error


def partition_of_message(row: MessageRow) -> str:
    """Return the partition of a message that is on no record yet."""
    assert row.created_at is not None
    return partition("agent_messages", row.created_at.toordinal() - _EPOCH_ORDINAL)


def partition_of_attempt(row: AttemptRow) -> str:
    """Return the partition of an attempt. Raises: OverflowError beyond the years there are."""
    return partition("message_delivery_log", row.attempt.attempted_ms // DAY_MS)


@lru_cache(64)
def partition(table: str, day: int) -> str:
    """Return the name of a table's partition of a day (UTC, counted from 1970)."""
    return f"{table}_p{_EPOCH + timedelta(days=day):%Y%m%d}"


async def run(connection: Connection, copies: Iterable[Copy]) -> None:
    """Copy within the caller's transaction. Raises: PartitionMissing; what the driver raises."""
    for copy in copies:
        try:
            await connection.copy_to_table(
                copy.table,
                # Plain bytes the driver would take for the name of a file. (Its types forget buffers.)
                source=memoryview(copy.rows),  # type: ignore[arg-type]
                columns=copy.columns,
                format="binary",
            )
        except asyncpg.UndefinedTableError as error:
            raise PartitionMissing(str(error)) from error


def _messages(rows: Sequence[MessageRow]) -> list[Copy]:
    if not rows:
        return []
    messages = [row.message for row in rows if row.message is not None]
    # A float holds a microsecond of these centuries, once rounded, and is three times as fast.
    created_us = [round(row.created_at.timestamp() * 1_000_000) for row in rows if row.created_at is not None]
    shared = _Shared(
        to=[known_id(row.to) for row in rows],
        sender=[known_id(message.from_agent_id) for message in messages],
        type=[word(message.message_type) for message in messages],
        status=[word(row.status._value_) for row in rows],
        created=moments(created_us),
        delivered=moments([(row.delivered_ms or 0) * 1_000 for row in rows]),
    )
    days = [at_us // DAY_US for at_us in created_us]
    return [
        *_by_day("agent_messages", _MESSAGE_COLUMNS, _message_fields(rows, messages, shared), days),
        Copy("statistics_deltas", _NOTE_COLUMNS, _note(rows, messages, created_us, shared)),
    ]


class _Shared(Struct):
    """Columns that both the rows and what statistics note of them have."""

    to: list[bytes]
    sender: list[bytes]
    type: list[bytes]
    status: list[bytes]
    created: list[bytes]
    delivered: list[bytes]


def _message_fields(
    rows: Sequence[MessageRow], messages: Sequence[Envelope], shared: _Shared
) -> list[list[bytes] | list[Raw]]:
    """Return the fields of `_MESSAGE_COLUMNS`, some lists with a part of a field, some with several."""
    contents = [message.content for message in messages]
    metadata = [message.metadata for message in messages]
    return [
        [_START_OF_MESSAGE] * len(rows),
        uuids([row.id for row in rows]),
        shared.to,
        shared.created,
        shared.delivered,
        moments([(row.placed_ms or 0) * 1_000 for row in rows]),
        [_smallints(message.priority, message.hop) for message in messages],
        shared.status,
        shared.type,
        shared.sender,
        [document_head(len(content)) for content in contents],
        contents,
        [document_head(len(one)) for one in metadata],
        metadata,
        [_requirements(message) for message in messages],
        [NULL if row.route is None else document(row.route) for row in rows],
        list(map(_seldom, rows, messages)),
    ]


def _seldom(row: MessageRow, message: Envelope) -> bytes:
    """Pack the last columns, those that few messages have."""
    root_id = None if message.root_id == message.id else message.root_id
    expires_at, deliver_at = message.expires_at, message.deliver_at
    if (
        (root_id is None and message.reply_to is None and message.conversation_id is None)
        and (expires_at is None and not isinstance(deliver_at, datetime))
        and (row.processed_ms is None and row.result is None)
    ):
        return _NONE_OF_THEM
    return b"".join(
        (
            known_id(root_id),
            known_id(message.reply_to),
            NULL if expires_at is None else moment(_microseconds(expires_at)),
            moment(_microseconds(deliver_at)) if isinstance(deliver_at, datetime) else NULL,
            NULL if row.processed_ms is None else moment(row.processed_ms * 1_000),
            text(message.conversation_id),
            NULL if row.result is None else document(row.result),
        )
    )


def _note(
    rows: Sequence[MessageRow], messages: Sequence[Envelope], created_us: Sequence[int], shared: _Shared
) -> bytes:
    """Return the row of statistics_deltas that the trigger of migration 5 would have written."""
    count = len(rows)
    processed = [NULL if row.processed_ms is None else moment(row.processed_ms * 1_000) for row in rows]
    return binary.table(
        [
            [len(_NOTE_COLUMNS).to_bytes(2, "big")],
            [binary.smallint(1)],
            [binary.integer(count)],
            [array(UUID_TYPE, shared.to)],
            [array(UUID_TYPE, shared.sender)],
            [array(TEXT_TYPE, shared.type)],
            [array(TEXT_TYPE, shared.status)],
            [array(TEXT_TYPE, [NULL] * count)],
            [array(MOMENT_TYPE, shared.created)],
            [array(MOMENT_TYPE, _started(messages, created_us, shared.created))],
            [array(MOMENT_TYPE, shared.delivered)],
            [array(MOMENT_TYPE, processed)],
        ]
    )


def _started(messages: Sequence[Envelope], created_us: Sequence[int], created: list[bytes]) -> list[bytes]:
    """Return when the delivery of each could begin."""
    deliver_at = [message.deliver_at for message in messages]
    if not any(isinstance(at, datetime) for at in deliver_at):
        return created
    return [
        moment(max(at_us, _microseconds(at))) if isinstance(at, datetime) else field
        for at, at_us, field in zip(deliver_at, created_us, created, strict=True)
    ]


def _attempts(rows: Sequence[AttemptRow]) -> list[Copy]:
    if not rows:
        return []
    attempts = [row.attempt for row in rows]
    fields = [
        [_START_OF_ATTEMPT] * len(rows),
        uuids([row.message_id for row in rows]),
        moments([attempt.attempted_ms * 1_000 for attempt in attempts]),
        [_smallint_and_integer(attempt.round, attempt.number) for attempt in attempts],
        [integer(attempt.duration_ms) for attempt in attempts],
        [_ending(one.status._value_, one.response_code, one.response_body, one.error) for one in attempts],
    ]
    days = [attempt.attempted_ms // DAY_MS for attempt in attempts]
    return _by_day("message_delivery_log", _ATTEMPT_COLUMNS, fields, days)


@lru_cache(1_024)
def _ending(status: str, code: int | None, body: str | None, error: str | None) -> bytes:
    """Pack how an attempt ended; most end as others did."""
    return word(status) + integer(code) + text(body) + text(error)


@lru_cache(1_024)
def _smallints(one: int, other: int) -> bytes:
    return binary.smallint(one) + binary.smallint(other)


@lru_cache(1_024)
def _smallint_and_integer(one: int, other: int) -> bytes:
    return binary.smallint(one) + integer(other)


def _by_day(
    table: str, columns: tuple[str, ...], fields: Sequence[list[bytes] | list[Raw]], days: Sequence[int]
) -> list[Copy]:
    """Return rows as copies into the partitions of their days (UTC, counted from 1970)."""
    first = days[0]
    if days.count(first) == len(days):
        return [Copy(partition(table, first), columns, binary.table(fields))]
    return [
        Copy(
            partition(table, day),
            columns,
            binary.table([list(compress(column, [its == day for its in days])) for column in fields]),
        )
        for day in sorted(set(days))
    ]


def _requirements(message: Envelope) -> bytes:
    needed = message.requirements
    return _needed(tuple(needed)) if isinstance(needed, list) else NULL


@lru_cache(4_096)
def _needed(requirements: tuple[str, ...]) -> bytes:
    return document(Raw(encode(requirements)))


def _microseconds(at: datetime) -> int:
    return round(as_utc(at).timestamp() * 1_000_000)
