"""The fold: what a batch of ledger events comes to, however it was cut and however often it was read."""

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ledger_events import (
    AGENTS,
    Model,
    attempt_keys,
    by_id,
    envelope,
    failed,
    ledgers,
    readings,
    settled,
    succeeded,
)
from msgspec import UNSET, Raw

from broker.core.fold import MessageRow, _any_row, _delivered_at_once, fold
from broker.core.lifecycle import rank
from schema.codec import decode_events, decode_stored_envelope, decode_whole_events, encode
from schema.ids import new_id
from schema.ledger import Event, EventKind
from schema.message import Envelope, Status
from schema.times import to_ms


def event(kind: EventKind, id: str, at_ms: int, **fields) -> Event:
    return Event(kind=kind, id=id, at_ms=at_ms, **fields)


def only(events: list[Event]) -> MessageRow:
    (row,) = fold(events).messages
    return row


def test_one_event_of_a_delivered_message_is_one_row_and_one_attempt() -> None:
    message = envelope()
    rows = fold([settled(message, at_ms=1_000, mailbox_entry="5-0")])
    (row,) = rows.messages
    assert (row.status, row.delivered_ms, row.retry_count) == (Status.DELIVERED, 1_000, 0)
    assert (row.to, row.mailbox_entry) == (AGENTS[0], "5-0")
    assert row.created_at == message.created_at
    assert [attempt.attempt.number for attempt in rows.attempts] == [1]


def test_events_survive_the_wire_with_their_raw_parts() -> None:
    sent = settled(envelope(), status=Status.PROCESSED, result=Raw(b'{"n":1}'), route=Raw(b'{"why":[]}'))
    (row,) = fold(decode_events(encode([sent]))).messages
    assert bytes(row.result or b"") == b'{"n":1}'
    assert bytes(row.route or b"") == b'{"why":[]}'
    assert row.message is not None


def test_failed_attempts_are_counted_and_the_next_one_is_shown_until_it_ends() -> None:
    message = envelope()
    first = settled(message, kind=EventKind.ROUTED, status=Status.PENDING, attempt=None)
    tries = [
        event(EventKind.ATTEMPTED, message.id, n, attempt=failed(n, n), next_attempt_ms=n + 100)
        for n in (1, 2)
    ]
    waiting = only([first, *tries])
    assert (waiting.retry_count, waiting.next_attempt_ms, waiting.status) == (2, 102, Status.PENDING)
    end = event(
        EventKind.SETTLED, message.id, 3, status=Status.FAILED, reason="exhausted", attempt=failed(3, 3)
    )
    ended = only([first, *tries, end])
    assert (ended.retry_count, ended.next_attempt_ms, ended.reason) == (3, None, "exhausted")


@pytest.mark.parametrize(
    ("first", "then", "left"),
    [
        (Status.PENDING, Status.DELIVERED, Status.DELIVERED),
        (Status.DELIVERED, Status.PENDING, Status.DELIVERED),
        (Status.PROCESSED, Status.DELIVERED, Status.PROCESSED),
        (Status.FAILED, Status.PROCESSED, Status.FAILED),
        (Status.EXPIRED, Status.FAILED, Status.EXPIRED),
        (Status.DELIVERED, Status.EXPIRED, Status.DELIVERED),
    ],
)
def test_the_higher_rank_stays_and_of_two_ends_the_first(first: Status, then: Status, left: Status) -> None:
    message = envelope()
    events = [
        settled(message, status=first, attempt=None),
        event(EventKind.SETTLED, message.id, 2, status=then),
    ]
    assert only(events).status is left


def test_a_replayed_dead_letter_starts_over_in_its_round() -> None:
    message = envelope()
    dead = settled(message, status=Status.FAILED, reason="gone", attempt=failed(1, 1), at_ms=1)
    again = settled(envelope(message.id, round=1), at_ms=2, attempt=succeeded(1, 2, round=1))
    for events in ([dead, again], [again, dead], [dead, again, dead]):
        row = only(events)
        assert (row.round, row.status, row.reason, row.retry_count) == (1, Status.DELIVERED, None, 0)
    assert len(fold([dead, again]).attempts) == 2


def test_the_latest_mailbox_is_the_one_that_counts() -> None:
    message = envelope()
    routed = settled(message, kind=EventKind.ROUTED, status=Status.PENDING, attempt=None, at_ms=1)
    moved = event(EventKind.ROUTED, message.id, 2, to=AGENTS[1], mailbox_entry="7-0")
    for events in ([routed, moved], [moved, routed]):
        row = only(events)
        assert (row.to, row.mailbox_entry) == (AGENTS[1], "7-0")


def test_a_name_nobody_goes_by_is_no_recipient() -> None:
    message = envelope(to_agent_id="nobody")
    row = only([settled(message, to=None, status=Status.FAILED, reason="unknown_recipient", attempt=None)])
    assert row.to is None


def test_a_message_without_a_time_is_dated_by_its_id_and_else_by_its_event() -> None:
    seventh = Envelope(id="0193a1b2-c3d4-7000-8000-000000000001")
    fourth = Envelope(id="0193a1b2-c3d4-4000-8000-000000000001")
    made = only([settled(seventh, at_ms=9)]).created_at
    assert made is not None
    assert to_ms(made) == 0x0193A1B2C3D4
    dated = only([settled(fourth, at_ms=9)]).created_at
    assert dated is not None
    assert to_ms(dated) == 9


@pytest.mark.parametrize("poison", ["\x00", "\x1e", "\x1f"])
def test_text_that_cannot_be_stored_costs_neither_an_attempt_nor_a_status(poison: str) -> None:
    message = envelope()
    attempt = succeeded(1, 1)
    attempt.response_body = attempt.error = f"a{poison}b\nc"
    rows = fold([settled(message, attempt=attempt, reason=f"a{poison}b")])
    (made,), (row,) = rows.attempts, rows.messages
    stored = "a\N{REPLACEMENT CHARACTER}b"
    assert (made.attempt.response_body, made.attempt.error, row.reason) == (
        f"{stored}\nc",
        f"{stored}\nc",
        stored,
    )


def test_what_is_no_message_is_quarantined_with_its_bytes() -> None:
    raw = base64.b64encode(b"\x00not json").decode()
    quarantined = event(
        EventKind.QUARANTINED,
        "5-1",
        3,
        raw=raw,
        reason="malformed",
        stream="ab:{0}:ingress:low",
        detail="why",
    )
    broken = settled(envelope(), message=Raw(b'{"id": 7}'))
    rows = fold([quarantined, broken], shard=1)
    assert not rows.messages
    assert [(row.shard, row.stream, row.entry) for row in rows.quarantine] == [
        (1, "ab:{0}:ingress:low", "5-1"),
        (1, "ledger", broken.id),
    ]
    assert rows.quarantine[0].raw == b"\x00not json"
    assert rows.quarantine[1].raw == b'{"id": 7}'


def test_who_waits_is_told_of_every_message_it_waits_for() -> None:
    one, other = envelope(), envelope()
    rows = fold([settled(one, waiter="g1"), settled(other, waiter="g1"), settled(envelope())])
    assert rows.waiting == [("g1", one.id), ("g1", other.id)]


def test_a_change_of_an_unseen_message_carries_no_message() -> None:
    row = only([event(EventKind.SETTLED, new_id(), 1, status=Status.EXPIRED)])
    assert row.message is None
    assert row.created_at is None


@given(st.data())
def test_rows_are_the_same_however_the_ledger_was_cut_and_reread(data: st.DataObject) -> None:
    events = data.draw(ledgers())
    model = Model()
    for start, end in data.draw(readings(len(events))):
        model.write(fold(events[start:end]))
    whole = fold(events)
    assert by_id(model.messages.values()) == by_id(whole.messages)
    assert model.attempts == attempt_keys(whole)


@given(ledgers())
def test_the_short_way_of_most_messages_says_what_the_long_one_says(events: list[Event]) -> None:
    for event in events:
        if event.message is UNSET:
            continue
        message = decode_stored_envelope(event.message)
        if (row := _delivered_at_once(event, message)) is not None:
            assert row == _any_row(event, message)
    plain = settled(envelope(), route=Raw(b"{}"))
    message = decode_stored_envelope(plain.message)
    assert _delivered_at_once(plain, message) == _any_row(plain, message)


@given(ledgers())
def test_messages_may_be_decoded_with_their_events(events: list[Event]) -> None:
    raw = encode(events)
    assert by_id(fold(decode_whole_events(raw)).messages) == by_id(fold(decode_events(raw)).messages)


@given(st.data())
def test_a_status_never_goes_backwards(data: st.DataObject) -> None:
    events = data.draw(ledgers())
    model = Model()
    reached: dict[str, tuple[int, int]] = {}
    for start, end in data.draw(readings(len(events))):
        model.write(fold(events[start:end]))
        for row in model.messages.values():
            now = (row.round, rank(row.status))
            assert now >= reached.get(row.id, now)
            reached[row.id] = now


def routed(message: Envelope, **fields) -> Event:
    return settled(message, kind=EventKind.ROUTED, status=Status.PENDING, attempt=None, **fields)


def test_word_of_record_names_whom_something_still_waits_for() -> None:
    waits, waits_too, done, parked = (envelope(to_agent_id=agent) for agent in (*AGENTS[:2], AGENTS[2], None))
    moved = event(EventKind.ROUTED, waits_too.id, 9, to=AGENTS[3], mailbox_entry="9-0")
    retried = event(EventKind.ATTEMPTED, done.id, 2, attempt=failed(1, 2))
    rows = fold(
        [
            *(routed(waits), routed(envelope()), routed(parked)),
            *(routed(waits_too, at_ms=1), moved),
            *(routed(done), retried, event(EventKind.SETTLED, done.id, 3, status=Status.DELIVERED)),
        ]
    )
    assert rows.pending == {AGENTS[0], AGENTS[3]}
    assert fold([settled(envelope())]).pending == set()


def test_word_of_record_names_what_was_answered() -> None:
    question, other = new_id(), new_id()
    pushed, pulled = envelope(reply_to=question), envelope(reply_to=other)
    rows = fold([settled(pushed), routed(pulled), settled(envelope()), settled(pushed)])
    assert list(dict.fromkeys(rows.replies)) == [(question, pushed.id), (other, pulled.id)]


@given(st.data())
def test_whoever_is_told_has_something_pending(data: st.DataObject) -> None:
    rows = fold(data.draw(ledgers()))
    assert rows.pending == {row.to for row in rows.messages if row.to and row.status is Status.PENDING}
