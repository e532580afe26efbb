"""Writing rows: what lands in the tables, and that no repetition or order changes it."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger_events import (
    AGENTS,
    Model,
    attempt_keys,
    by_id,
    envelope,
    failed,
    ledgers,
    now_ms,
    readings,
    settled,
    shown,
)
from msgspec import Raw

from broker.core.fold import MessageRow, Rows, fold
from broker.store import attempts, messages, record
from broker.store.pool import Pool
from schema.ids import new_id
from schema.ledger import Event, EventKind, Progress
from schema.message import Status
from schema.times import to_ms

# The database is fresh per test, not per example; examples use ids of their own.
on_one_database = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


async def stored(pool: Pool, ids: set[str]) -> dict[str, dict[str, object]]:
    rows = await pool.fetch("SELECT * FROM agent_messages WHERE id = ANY($1::uuid[])", list(ids))
    return {str(row["id"]): _as_row(row) for row in rows}


def _as_row(row) -> dict[str, object]:
    def ms(name: str) -> int | None:
        return None if row[name] is None else to_ms(row[name])

    def raw(name: str) -> Raw | None:
        return None if row[name] is None else Raw(row[name].encode())

    return shown(
        MessageRow(
            id=str(row["id"]),
            round=row["round"],
            status=Status(row["status"]),
            reason=row["status_reason"],
            result=raw("result"),
            retry_count=row["retry_count"],
            next_attempt_ms=ms("next_attempt_at"),
            delivered_ms=ms("delivered_at"),
            processed_ms=ms("processed_at"),
            to=None if row["to_agent_id"] is None else str(row["to_agent_id"]),
            mailbox_entry=row["mailbox_entry"],
            route=raw("route"),
            placed_ms=ms("placed_at"),
        )
    )


async def stored_attempts(pool: Pool, ids: set[str]) -> set[tuple[str, int, int, int]]:
    rows = await pool.fetch(
        "SELECT * FROM message_delivery_log WHERE message_id = ANY($1::uuid[])", list(ids)
    )
    return {
        (str(row["message_id"]), row["round"], row["attempt"], to_ms(row["attempted_at"])) for row in rows
    }


@on_one_database
@given(data=st.data())
async def test_tables_are_the_same_however_the_ledger_was_cut_and_reread(
    pool: Pool, data: st.DataObject
) -> None:
    events = data.draw(ledgers())
    model = Model()
    for start, end in data.draw(readings(len(events))):
        await record.write(pool, fold(events[start:end]))
        model.write(fold(events[start:end]))
    ids = {event.id for event in events}
    whole = fold(events)
    assert await stored(pool, ids) == by_id(model.messages.values()) == by_id(whole.messages)
    assert await stored_attempts(pool, ids) == attempt_keys(whole)


async def test_a_whole_message_reads_back_as_it_was_sent(any_pool: Pool) -> None:
    sent = envelope(
        from_agent_id=AGENTS[1],
        conversation_id="a conversation",
        message_type="task",
        priority=2,
        content=Raw('{"text": "naïve \\" \\\\ 漢", "n": 1.5}'.encode()),
        metadata=Raw(b'{"max_retries": 3}'),
        reply_to=new_id(),
        root_id=new_id(),
        hop=3,
    )
    await record.write(any_pool, fold([settled(sent, at_ms=to_ms(sent.created_at))]))
    view = await messages.get(any_pool, sent.id)
    assert view is not None
    assert json.loads(bytes(view.content)) == json.loads(bytes(sent.content))
    assert json.loads(bytes(view.metadata)) == {"max_retries": 3}
    for name in ("from_agent_id", "to_agent_id", "conversation_id", "message_type", "priority", "created_at"):
        assert getattr(view, name) == getattr(sent, name), name
    for name in ("reply_to", "root_id", "hop", "expires_at"):
        assert getattr(view, name) == getattr(sent, name), name
    assert (view.status, view.retry_count) == ("delivered", 0)
    (attempt,) = await attempts.of_message(any_pool, sent.id)
    assert (attempt.status, attempt.response_code, attempt.response_body) == ("success", 200, "ok")


async def test_empty_texts_stay_empty_and_absent_ones_stay_absent(pool: Pool) -> None:
    message = envelope(conversation_id="")
    await record.write(pool, fold([settled(message)]))
    view = await messages.get(pool, message.id)
    assert view is not None
    assert view.conversation_id == ""
    assert view.status_reason is None
    assert view.root_id == message.id


async def test_a_change_finds_its_message_by_an_id_of_any_version(any_pool: Pool) -> None:
    ids = ["6f0a7d1e-2f3c-4b5a-8d6e-7f8091a2b3c4", new_id(), "0193a1b2-c3d4-7000-8000-000000000001"]
    found = [settled(envelope(id), status=Status.PENDING, attempt=None) for id in ids]
    await record.write(any_pool, fold(found))
    unknown = new_id()
    ends = [
        Event(kind=EventKind.SETTLED, id=id, at_ms=now_ms(), status=Status.EXPIRED) for id in (*ids, unknown)
    ]
    assert await record.write(any_pool, fold(ends)) == [unknown]
    for id in ids:
        view = await messages.get(any_pool, id)
        assert view is not None
        assert view.status == "expired"


async def test_a_late_delivery_does_not_undo_what_the_recipient_said(pool: Pool) -> None:
    message = envelope()
    routed = settled(message, kind=EventKind.ROUTED, status=Status.PENDING, attempt=None)
    await record.write(pool, fold([routed]))
    await messages.transition(pool, message.id, Status.PROCESSED, now_ms=now_ms(), result=b'{"ok": true}')
    await record.write(pool, fold([settled(message)]))
    view = await messages.get(pool, message.id)
    assert view is not None
    assert view.status == "processed"
    assert bytes(view.result or b"") == b'{"ok": true}'


@pytest.mark.parametrize(
    "fields",
    [
        {"status": Status.PENDING, "attempt": None, "kind": EventKind.ROUTED},
        {},
        {"status": Status.FAILED, "attempt": None, "reason": "hop_limit"},
        {"status": Status.PROCESSED, "result": Raw(b'{"b": 1, "a": [2.50]}')},
        {"status": Status.PENDING, "attempt": None, "to": None, "kind": EventKind.ROUTED},
        {"status": Status.PENDING, "attempt": failed(1, now_ms()), "next_attempt_ms": 9_000},
    ],
    ids=["pending", "delivered", "failed", "processed", "parked", "retried"],
)
async def test_who_waits_is_told_what_its_row_says(any_pool: Pool, fields) -> None:
    message, other = envelope(), envelope()
    if fields.get("to", "") is None:
        message.to_agent_id = None
    rows = fold([settled(message, waiter="g", **fields), settled(other)])
    await record.write(any_pool, rows)
    assert list(rows.progress) == [message.id]
    assert rows.progress[message.id] == await said_of(any_pool, message.id)


async def said_of(pool: Pool, message_id: str) -> Progress:
    """What a receipt would have to say of the row as it is."""
    view = await messages.get(pool, message_id)
    assert view is not None
    return Progress(
        view.status,
        view.to_agent_id,
        view.retry_count,
        view.delivered_at,
        view.processed_at,
        view.next_attempt_at,
        view.status_reason,
        None if view.result is None else bytes(view.result).decode(),
    )


async def test_who_waits_is_told_what_the_row_says_after_it_met_an_older_one(pool: Pool) -> None:
    message = envelope()
    routed = settled(message, kind=EventKind.ROUTED, status=Status.PENDING, attempt=None, waiter="g")
    await record.write(pool, fold([routed]))
    await messages.transition(pool, message.id, Status.CANCELLED, now_ms=now_ms())
    event = settled(message, waiter="g", attempt=failed(1, now_ms()))
    late = fold([event])
    await record.write(pool, late)
    assert late.progress[message.id] == await said_of(pool, message.id)
    assert late.progress[message.id].status == "cancelled"
    for again in (fold([routed]), fold([event])):
        await record.write(pool, again)
        assert again.progress == {}


async def test_a_long_result_is_not_told_but_read(pool: Pool) -> None:
    rows = fold([settled(envelope(), waiter="g", result=Raw(b'"%b"' % (b"x" * 5_000)))])
    await record.write(pool, rows)
    assert rows.progress == {}


async def test_what_was_delivered_does_not_expire(pool: Pool) -> None:
    message = envelope()
    await record.write(pool, fold([settled(message)]))
    end = Event(kind=EventKind.SETTLED, id=message.id, at_ms=9, status=Status.EXPIRED, reason="expired")
    await record.write(pool, fold([end]))
    view = await messages.get(pool, message.id)
    assert view is not None
    assert (view.status, view.status_reason) == ("delivered", None)


async def test_a_replayed_batch_writes_no_row_again(pool: Pool) -> None:
    message = envelope()
    at_ms = now_ms()
    await record.write(pool, fold([settled(message, at_ms=at_ms)]))
    before = await pool.fetch_value("SELECT xmin::text FROM agent_messages WHERE id = $1", message.id)
    await record.write(pool, fold([settled(message, at_ms=at_ms)]))
    assert await pool.fetch_value("SELECT xmin::text FROM agent_messages WHERE id = $1", message.id) == before


async def test_nothing_to_write_is_written_without_a_database() -> None:
    class Unreachable(Pool):
        def __init__(self) -> None:
            pass

    assert await record.write(Unreachable(), Rows()) == []


async def test_attempts_of_a_retried_message_are_listed_in_order(pool: Pool) -> None:
    message = envelope()
    at_ms = now_ms()
    tries = [
        Event(kind=EventKind.ATTEMPTED, id=message.id, at_ms=at_ms + n, attempt=failed(n, at_ms + n))
        for n in (1, 2, 3)
    ]
    await record.write(pool, fold([settled(message, status=Status.PENDING, attempt=None), *tries]))
    listed = await attempts.of_message(pool, message.id)
    assert [(attempt.attempt, attempt.status) for attempt in listed] == [(n, "failed") for n in (1, 2, 3)]
