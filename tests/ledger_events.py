"""Histories of messages as the ledger has them, for tests of the fold, the store and the recorder."""

import time
from collections.abc import Iterable
from datetime import UTC, datetime

from hypothesis import strategies as st
from msgspec import UNSET, Raw

from broker.core.fold import MessageRow, Rows, merge
from schema.codec import encode
from schema.delivery import Attempt, AttemptStatus
from schema.ids import new_id
from schema.ledger import Event, EventKind
from schema.message import Envelope, Status

AGENTS = [new_id() for _ in range(4)]


def now_ms() -> int:
    return int(time.time() * 1000)


def envelope(message_id: str | None = None, **fields) -> Envelope:
    """A message to the first agent, made now."""
    message_id = message_id or new_id()
    given = {"to_agent_id": AGENTS[0], "created_at": datetime.now(UTC), "root_id": message_id}
    return Envelope(id=message_id, **(given | fields))


def settled(message: Envelope, /, **fields) -> Event:
    """The one event of a message that was pushed and taken at the first attempt."""
    at_ms = fields.pop("at_ms", now_ms())
    given = {
        "kind": EventKind.SETTLED,
        "id": message.id,
        "at_ms": at_ms,
        "message": Raw(encode(message)),
        "to": message.to_agent_id,
        "status": Status.DELIVERED,
        "attempt": succeeded(1, at_ms),
    }
    return Event(**(given | fields))


def succeeded(number: int, at_ms: int, round: int = 0) -> Attempt:
    return Attempt(
        number=number,
        status=AttemptStatus.SUCCESS,
        attempted_ms=at_ms,
        duration_ms=3,
        response_code=200,
        response_body="ok",
        round=round,
    )


def failed(number: int, at_ms: int, round: int = 0) -> Attempt:
    return Attempt(number=number, status=AttemptStatus.FAILED, attempted_ms=at_ms, error="reset", round=round)


@st.composite
def lives(draw: st.DrawFn, message_id: str, start_ms: int) -> list[Event]:
    """The events of one message: placed, tried, moved to another agent, ended, now and then replayed."""
    events: list[Event] = []
    message = envelope(message_id)
    for round in range(draw(st.integers(1, 2))):
        message.round = round if round else UNSET
        events += draw(_rounds(message, round, start_ms + len(events) * 10))
    return events


@st.composite
def _rounds(draw: st.DrawFn, message: Envelope, round: int, start_ms: int) -> list[Event]:
    steps = draw(st.lists(st.sampled_from(["fail", "move"]), max_size=4))
    whole = Raw(encode(message))
    end = draw(st.sampled_from([None, *Status]))
    if end is Status.PENDING:
        end = None
    events: list[Event] = []
    number = 0

    def add(kind: EventKind, **fields) -> None:
        at_ms = start_ms + len(events) * 10
        carried = whole if not events or draw(st.booleans()) else UNSET
        place = {}
        if carried is not UNSET or kind is EventKind.ROUTED:
            place = {"to": draw(st.sampled_from(AGENTS)), "mailbox_entry": f"{at_ms}-0"}
            place["route"] = Raw(b'{"chosen": %d}' % at_ms)
        given = {"kind": kind, "id": message.id, "at_ms": at_ms, "message": carried, "round": round}
        events.append(Event(**given, **place, **fields))

    if steps or end is None or draw(st.booleans()):
        add(EventKind.ROUTED)
    for step in steps:
        at_ms = start_ms + len(events) * 10
        if step == "move":
            add(EventKind.ROUTED)
            continue
        number += 1
        add(EventKind.ATTEMPTED, attempt=failed(number, at_ms, round), next_attempt_ms=at_ms + 1000)
    if end is not None:
        at_ms = start_ms + len(events) * 10
        taken = end in (Status.DELIVERED, Status.PROCESSED) and draw(st.booleans())
        add(
            EventKind.SETTLED,
            status=end,
            attempt=succeeded(number + 1, at_ms, round) if taken else None,
            reason=None if taken else "exhausted",
            result=Raw(b'{"round": %d}' % round) if end is Status.PROCESSED else UNSET,
        )
        if end is Status.DELIVERED and draw(st.booleans()):
            add(EventKind.SETTLED, status=Status.PROCESSED, result=Raw(b'{"n": 1}'))
    return events


@st.composite
def ledgers(draw: st.DrawFn) -> list[Event]:
    """The events of a few messages, each in order, mixed."""
    start_ms = now_ms()
    queues = [draw(lives(new_id(), start_ms)) for _ in range(draw(st.integers(1, 3)))]
    mixed: list[Event] = []
    while queues:
        queue = queues[draw(st.integers(0, len(queues) - 1))]
        mixed.append(queue.pop(0))
        queues = [queue for queue in queues if queue]
    return mixed


@st.composite
def readings(draw: st.DrawFn, length: int) -> list[tuple[int, int]]:
    """How a ledger may be read: windows in order, each perhaps from further back, some again at the end."""
    cuts = sorted(draw(st.sets(st.integers(1, length), max_size=5)) | {length})
    back = draw(st.lists(st.integers(0, length), min_size=len(cuts), max_size=len(cuts)))
    starts = [0, *cuts]
    windows = [(max(0, start - again), end) for start, end, again in zip(starts, cuts, back, strict=False)]
    again = st.tuples(st.integers(0, length - 1), st.integers(1, 4))
    return windows + [(start, start + size) for start, size in draw(st.lists(again, max_size=3))]


class Model:
    """The tables as plain values: what writing rows must come to."""

    def __init__(self) -> None:
        self.messages: dict[str, MessageRow] = {}
        self.attempts: set[tuple[str, int, int, int]] = set()

    def write(self, rows: Rows) -> None:
        for row in rows.messages:
            known = self.messages.get(row.id)
            if known is not None:
                merge(known, row)
            elif row.message is not None:
                self.messages[row.id] = row
        self.attempts |= attempt_keys(rows)


def attempt_keys(rows: Rows) -> set[tuple[str, int, int, int]]:
    """The identities of attempts."""
    return {
        (row.message_id, row.attempt.round, row.attempt.number, row.attempt.attempted_ms)
        for row in rows.attempts
    }


def shown(row: MessageRow) -> dict[str, object]:
    """A row's fields but for the message, comparable."""
    return {
        "id": row.id,
        "round": row.round,
        "status": row.status.value,
        "reason": row.reason,
        "result": plain(row.result),
        "retry_count": row.retry_count,
        "next_attempt_ms": row.next_attempt_ms,
        "delivered_ms": row.delivered_ms,
        "processed_ms": row.processed_ms,
        "to": row.to,
        "mailbox_entry": row.mailbox_entry,
        "route": plain(row.route),
        "placed_ms": row.placed_ms,
    }


def plain(raw: Raw | None) -> str | None:
    """JSON without the spaces Postgres puts in."""
    return None if raw is None else bytes(raw).decode().replace(" ", "")


def by_id(rows: Iterable[MessageRow]) -> dict[str, dict[str, object]]:
    return {row.id: shown(row) for row in rows}
