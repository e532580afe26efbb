"""Fold events of the ledger into rows: one per message, one per attempt, one per quarantined entry.

Decides what a message row says after something happened, and nothing about how it is written: the SQL of
`broker.store.record` merges a row into the table by the same rule as `merge` does in memory.

Invariants, for any cut of the ledger into batches and any event seen twice:
- the rows come out the same;
- within a round the rank of a status never sinks, what was delivered does not expire, and of two terminal
  statuses the first stays (of a message that has expired a ledger says nothing more in that round);
- a later round (a dead letter replayed) overrides an earlier one, never the other way round.

Every field merges by a rule that does not mind repetition: the first wins (message), the highest (round,
status, retries), the earliest (delivered, processed) or the latest (the mailbox it was put into).
"""

from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from msgspec import UNSET, MsgspecError, Raw, Struct, UnsetType, field

from broker.core.lifecycle import may_become
from schema.codec import decode_stored_envelope
from schema.delivery import Attempt, AttemptStatus
from schema.ids import is_id, made_ms
from schema.ledger import Event, EventKind, Progress
from schema.message import Envelope, Reason, Status
from schema.times import as_utc, from_ms

# Looking a member up in its Enum class takes CPython 3.11 0.3 us: once here, not six times an event.
_PENDING: Final = Status.PENDING
_DELIVERED: Final = Status.DELIVERED
_PROCESSED: Final = Status.PROCESSED
_SUCCESS: Final = AttemptStatus.SUCCESS
_QUARANTINED: Final = EventKind.QUARANTINED
_UNSTORABLE: Final = dict.fromkeys((0x00, 0x1E, 0x1F), "\N{REPLACEMENT CHARACTER}")
"""NUL, which Postgres refuses, and what `broker.store.columns` puts between values and for null."""


class MessageRow(Struct, kw_only=True, gc=False):
    """What is known of one message. `message` and `created_at` are None where no event carried it whole.

    `placed_ms`: when it was put into the mailbox that `to` and `mailbox_entry` name; None: by none of these
    events. `retry_count`: attempts of this round that failed.
    """

    id: str
    message: Envelope | None = None
    created_at: datetime | None = None
    round: int = 0
    status: Status = Status.PENDING
    reason: str | None = None
    result: Raw | None = None
    retry_count: int = 0
    next_attempt_ms: int | None = None
    delivered_ms: int | None = None
    processed_ms: int | None = None
    to: str | None = None
    mailbox_entry: str | None = None
    route: Raw | None = None
    placed_ms: int | None = None


class AttemptRow(Struct, gc=False):
    """One attempt of one message."""

    message_id: str
    attempt: Attempt


class QuarantineRow(Struct, kw_only=True, gc=False):
    """What could not be read or stored: where it lay, why, and its bytes."""

    at_ms: int
    shard: int
    stream: str
    entry: str
    reason: str
    detail: str | None
    raw: bytes


class Rows(Struct):
    """What a batch of events comes to. To be told once committed: `waiting`, (gateway, message id);
    `pending`, the agents something of this batch still waits for; `replies`, (answered message, reply).
    `progress`: filled in by who writes, what then stands in the rows of those waited for, where that is known
    without reading them."""

    messages: list[MessageRow] = field(default_factory=list)
    attempts: list[AttemptRow] = field(default_factory=list)
    quarantine: list[QuarantineRow] = field(default_factory=list)
    waiting: list[tuple[str, str]] = field(default_factory=list)
    pending: set[str] = field(default_factory=set)
    replies: list[tuple[str, str]] = field(default_factory=list)
    progress: dict[str, Progress] = field(default_factory=dict)


def fold(events: Iterable[Event], *, shard: int = 0) -> Rows:
    """Return the rows that a batch of events, in the order of the ledger, comes to."""
    messages: dict[str, MessageRow] = {}
    rows = Rows()
    unsettled: set[str] = set()
    for event in events:
        if event.kind is _QUARANTINED:
            rows.quarantine.append(_quarantined(event, shard))
            continue
        if (attempt := event.attempt) is not None:
            rows.attempts.append(AttemptRow(event.id, _storable(attempt)))
        try:
            new = _row_of(event)
        except MsgspecError as error:
            # The attempt stays: it was made, whatever the message looked like.
            rows.quarantine.append(_unreadable(event, shard, error))
            continue
        known = messages.get(event.id)
        if known is None:
            messages[event.id] = new
        else:
            merge(known, new)
        if event.waiter is not None:
            rows.waiting.append((event.waiter, event.id))
        # A message delivered at its first attempt, as most are, pays these two branches and no more.
        if event.status is _PENDING:
            unsettled.add(event.id)
        if new.message is not None and new.message.reply_to is not None:
            rows.replies.append((new.message.reply_to, event.id))
    rows.pending = _recipients(messages[message_id] for message_id in unsettled)
    rows.messages.extend(messages.values())
    rows.attempts = _once(rows.attempts)
    return rows


def _once(attempts: list[AttemptRow]) -> list[AttemptRow]:
    """Return each attempt once; of several messages, one each, as mostly, none is there twice."""
    if len({row.message_id for row in attempts}) == len(attempts):
        return attempts
    keyed = {
        (row.message_id, row.attempt.round, row.attempt.number, row.attempt.attempted_ms): row
        for row in attempts
    }
    return list(keyed.values())


def _recipients(rows: Iterable[MessageRow]) -> set[str]:
    """Return whom those of the rows that are still pending wait for."""
    return {row.to for row in rows if row.to is not None and row.status is _PENDING}


def merge(row: MessageRow, new: MessageRow) -> None:
    """Bring into `row` what `new`, which the ledger has later, knows beyond it."""
    if row.message is None:
        row.message, row.created_at = new.message, new.created_at
    if new.placed_ms is not None and (row.placed_ms is None or new.placed_ms > row.placed_ms):
        row.to, row.mailbox_entry, row.placed_ms = new.to, new.mailbox_entry, new.placed_ms
        row.route = new.route or row.route
    if new.round > row.round:
        _restart(row, new)
    elif new.round == row.round:
        _advance(row, new)


def _restart(row: MessageRow, new: MessageRow) -> None:
    row.round, row.retry_count, row.next_attempt_ms = new.round, new.retry_count, new.next_attempt_ms
    row.status, row.reason, row.result = new.status, new.reason, new.result
    row.delivered_ms, row.processed_ms = new.delivered_ms, new.processed_ms


def _advance(row: MessageRow, new: MessageRow) -> None:
    if may_become(row.status, new.status):
        row.status, row.reason, row.result = new.status, new.reason, new.result
    row.delivered_ms = _earliest(row.delivered_ms, new.delivered_ms)
    row.processed_ms = _earliest(row.processed_ms, new.processed_ms)
    if new.retry_count > row.retry_count:
        row.retry_count, row.next_attempt_ms = new.retry_count, new.next_attempt_ms
    if row.status is not _PENDING:
        row.next_attempt_ms = None


def _earliest(one: int | None, other: int | None) -> int | None:
    if one is None or other is None:
        return other if one is None else one
    return min(one, other)


def _row_of(event: Event) -> MessageRow:
    """Return what one event says. Raises: MsgspecError when its message cannot be read."""
    message: object = event.message
    if isinstance(message, Raw):
        message = decode_stored_envelope(message)
    if isinstance(message, Envelope):
        return _delivered_at_once(event, message) or _any_row(event, message)
    return _any_row(event, None)


def _delivered_at_once(event: Event, message: Envelope) -> MessageRow | None:
    """Return what `_any_row` returns for a message delivered at its first attempt, as most are, at a third of
    the price; None for any other."""
    attempt = event.attempt
    if (
        event.status is not _DELIVERED
        or (attempt is None or attempt.status is not _SUCCESS or attempt.number != 1 or attempt.round)
        or (event.to is None or event.reason is not None or event.result is not UNSET or event.round)
        or (message.created_at is None or message.round is not UNSET)
    ):
        return None
    at_ms, route = event.at_ms, event.route
    return MessageRow(
        id=event.id,
        message=message,
        created_at=as_utc(message.created_at),
        status=_DELIVERED,
        delivered_ms=at_ms,
        to=event.to,
        mailbox_entry=event.mailbox_entry,
        route=None if route is UNSET else route,
        placed_ms=at_ms,
    )


def _any_row(event: Event, message: Envelope | None) -> MessageRow:
    status, attempt = event.status, event.attempt
    row = MessageRow(id=event.id, round=event.round, status=status)
    if message is not None:
        _add_message(row, event, message)
    elif event.to is not None and event.mailbox_entry is not None:
        _place(row, event, event.to)
    if attempt is not None:
        row.round = max(row.round, attempt.round)
        failed = attempt.status is not _SUCCESS
        row.retry_count = attempt.number if failed else attempt.number - 1
        if not failed:
            row.delivered_ms = event.at_ms
    if status is _PENDING:
        row.next_attempt_ms = event.next_attempt_ms
        return row
    row.reason = None if event.reason is None else _text(event.reason)
    row.result = _present(event.result)
    if status is _DELIVERED:
        row.delivered_ms = event.at_ms
    elif status is _PROCESSED:
        row.processed_ms = event.at_ms
    return row


def _add_message(row: MessageRow, event: Event, message: Envelope) -> None:
    row.message = message
    row.created_at = _created_at(message, event)
    if isinstance(message.round, int):
        row.round = max(row.round, message.round)
    to = event.to
    if to is None and message.to_agent_id is not None and is_id(message.to_agent_id):
        # Named by its sender and not found. (A name nobody goes by is no recipient.)
        to = message.to_agent_id
    _place(row, event, to)


def _place(row: MessageRow, event: Event, to: str | None) -> None:
    row.to, row.mailbox_entry, row.placed_ms = to, event.mailbox_entry, event.at_ms
    row.route = _present(event.route)


def _created_at(message: Envelope, event: Event) -> datetime:
    """Return the time that is part of the row's key: the same for every event that carries the message."""
    if message.created_at is not None:
        return as_utc(message.created_at)
    made = made_ms(event.id)
    return from_ms(event.at_ms if made is None else made)


def _storable(attempt: Attempt) -> Attempt:
    """Return the attempt with texts Postgres takes: endpoints answer with whatever they like."""
    if attempt.response_body:
        attempt.response_body = _text(attempt.response_body)
    if attempt.error is not None:
        attempt.error = _text(attempt.error)
    return attempt


def _present(raw: Raw | UnsetType) -> Raw | None:
    return raw if isinstance(raw, Raw) else None


def _text(text: str) -> str:
    return text if text.isprintable() else text.translate(_UNSTORABLE)


def _quarantined(event: Event, shard: int) -> QuarantineRow:
    return QuarantineRow(
        at_ms=event.at_ms,
        shard=shard,
        stream=event.stream or "",
        entry=event.id,
        reason=_text(event.reason or Reason.MALFORMED.value),
        detail=None if event.detail is None else _text(event.detail),
        raw=_decoded(event.raw or ""),
    )


def _unreadable(event: Event, shard: int, error: MsgspecError) -> QuarantineRow:
    return QuarantineRow(
        at_ms=event.at_ms,
        shard=shard,
        stream="ledger",
        entry=event.id,
        reason=Reason.MALFORMED.value,
        detail=_text(str(error)),
        raw=bytes(_present(event.message) or b""),
    )


def _decoded(raw: str) -> bytes:
    try:
        return b64decode(raw, validate=True)
    except (Base64Error, ValueError):
        return raw.encode()
