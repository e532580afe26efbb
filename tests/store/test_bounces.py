"""Senders are told of bad ends: each round of a message once, by whoever writes it, and never in floods."""

import asyncio
import json
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from ledger_events import envelope, settled
from msgspec import Raw

from broker.core.fold import fold
from broker.store import bounces, messages, outbox, record
from broker.store.pool import Pool
from schema.codec import decode_stored_envelope
from schema.ids import new_id
from schema.ledger import Event, EventKind
from schema.limits import BOUNCES_PER_WINDOW_MAX
from schema.message import Envelope, Status


async def an_agent(pool: Pool, name: str = "", *, deleted: bool = False) -> str:
    agent_id = new_id()
    columns = "id, name, type, max_concurrent_jobs, concurrency, created_at, updated_at, deleted_at"
    values = "$1, $2, 'test', 1, 1, now(), now(), CASE WHEN $3 THEN now() END"
    statement = f"INSERT INTO agents ({columns}) VALUES ({values})"
    await pool.execute(statement, agent_id, name or agent_id, deleted)
    return agent_id


@pytest.fixture
async def sender(pool: Pool) -> str:
    return await an_agent(pool)


def ending(
    message: Envelope, status: Status = Status.FAILED, reason: str = "exhausted", **more: Any
) -> Event:
    return settled(message, status=status, reason=reason, attempt=None, **more)


def waiting(message: Envelope) -> Event:
    return settled(message, kind=EventKind.ROUTED, status=Status.PENDING, attempt=None)


async def notes(pool: Pool) -> list[Envelope]:
    rows = await pool.fetch("SELECT envelope FROM outbox ORDER BY id")
    return [decode_stored_envelope(row["envelope"]) for row in rows]


def about(note: Envelope) -> Any:
    return json.loads(bytes(note.content))


@pytest.mark.parametrize(
    ("status", "reason"), [(Status.FAILED, "exhausted"), (Status.EXPIRED, "expired"), (Status.FAILED, "gone")]
)
async def test_a_bad_end_is_told_in_the_transaction_that_writes_it(
    pool: Pool, sender: str, status: Status, reason: str
) -> None:
    recipient = await an_agent(pool, "the recipient")
    message = envelope(from_agent_id=sender, to_agent_id=recipient)
    await record.write(pool, fold([ending(message, status, reason, to=recipient)]))
    [note] = await notes(pool)
    assert (note.to_agent_id, note.from_agent_id, note.reply_to) == (sender, None, message.id)
    said = about(note)
    assert (said["message_id"], said["status"], said["reason"]) == (message.id, status.value, reason)
    assert (said["to_agent_id"], said["to_agent_name"]) == (recipient, "the recipient")
    # The keeper may take it at once: nobody else is going to publish it.
    assert [one.envelope.id for one in await outbox.claim(pool, 10, for_ms=1_000)] == [note.id]


async def test_a_ledger_read_again_and_two_that_read_it_at_once_tell_once(pool: Pool, sender: str) -> None:
    ends = [ending(envelope(from_agent_id=sender)) for _ in range(20)]
    await asyncio.gather(*(record.write(pool, fold(ends)) for _ in range(4)))
    await record.write(pool, fold(ends))
    assert sorted(about(note)["message_id"] for note in await notes(pool)) == sorted(end.id for end in ends)


async def test_an_end_that_comes_after_the_message_was_recorded_is_told(pool: Pool, sender: str) -> None:
    message = envelope(from_agent_id=sender)
    await record.write(pool, fold([waiting(message)]))
    assert await notes(pool) == []
    end = Event(kind=EventKind.SETTLED, id=message.id, at_ms=1, status=Status.FAILED, reason="exhausted")
    await record.write(pool, fold([end]))
    await record.write(pool, fold([end]))
    assert [about(note)["message_id"] for note in await notes(pool)] == [message.id]


async def test_each_round_is_told_once(pool: Pool, sender: str) -> None:
    message = envelope(from_agent_id=sender)
    again = msgspec.structs.replace(message, round=1)
    for one in (message, again, message, again):
        await record.write(pool, fold([ending(one)]))
    assert [about(note)["round"] for note in await notes(pool)] == [0, 1]


async def test_what_ended_well_before_is_not_told(pool: Pool, sender: str) -> None:
    message = envelope(from_agent_id=sender)
    await record.write(pool, fold([settled(message, status=Status.PROCESSED)]))
    await record.write(pool, fold([ending(message)]))
    assert await notes(pool) == []


async def test_nobody_is_told_of_notes_nor_who_is_not_there(pool: Pool, sender: str) -> None:
    left = await an_agent(pool, deleted=True)
    ends = [
        ending(envelope(from_agent_id=None)),
        ending(envelope(from_agent_id=sender, metadata=Raw(b'{"x": 1, "automatic": true}'))),
        ending(envelope(from_agent_id=left)),
        ending(envelope(from_agent_id=new_id())),
    ]
    await record.write(pool, fold(ends))
    assert await notes(pool) == []
    assert await pool.fetch_value("SELECT count(*) FROM agent_messages WHERE status = 'failed'") == len(ends)


async def test_a_note_that_fails_itself_causes_none(pool: Pool, sender: str) -> None:
    await record.write(pool, fold([ending(envelope(from_agent_id=sender))]))
    [note] = await notes(pool)
    await record.write(pool, fold([ending(note)]))
    assert len(await notes(pool)) == 1


async def test_a_recipients_failed_tells_its_sender_and_a_senders_cancel_tells_nobody(
    pool: Pool, sender: str
) -> None:
    refused, taken_back = envelope(from_agent_id=sender), envelope(from_agent_id=sender)
    await record.write(pool, fold([waiting(refused), waiting(taken_back)]))
    for _ in range(2):
        await messages.transition(pool, refused.id, Status.FAILED, reason="no thanks", now_ms=1)
        await messages.transition(pool, taken_back.id, Status.CANCELLED, now_ms=1)
    # The ledger says later what Redis made of it.
    await record.write(pool, fold([ending(refused), ending(taken_back, Status.EXPIRED)]))
    [note] = await notes(pool)
    assert (about(note)["message_id"], about(note)["reason"]) == (refused.id, "no thanks")


async def test_a_mass_failure_comes_to_a_bounded_number_of_notes_and_one_with_the_rest(
    pool: Pool, sender: str
) -> None:
    other, count = await an_agent(pool), 1_000
    for _ in range(0, count, 250):
        ends = [ending(envelope(from_agent_id=sender)) for _ in range(250)]
        await record.write(pool, fold(ends))
        await record.write(pool, fold(ends))
    await record.write(pool, fold([ending(envelope(from_agent_id=other))]))
    told = await notes(pool)
    assert len(told) == BOUNCES_PER_WINDOW_MAX + 1  # who is not flooded loses no note of its own
    assert await bounces.close_windows(pool, window_ms=60_000, limit=10) == 0
    assert await bounces.close_windows(pool, window_ms=0, limit=10) == 2
    assert await bounces.close_windows(pool, window_ms=0, limit=10) == 0
    [summary] = [note for note in await notes(pool) if "count" in about(note)]
    held = count - BOUNCES_PER_WINDOW_MAX
    assert (summary.to_agent_id, about(summary)["count"]) == (sender, held)
    assert about(summary)["reasons"] == {"exhausted": held}
    # The next window begins anew.
    await record.write(pool, fold([ending(envelope(from_agent_id=sender))]))
    assert len(await notes(pool)) == len(told) + 2


async def test_what_is_not_committed_is_told_by_whoever_commits_it(pool: Pool, sender: str) -> None:
    message = envelope(from_agent_id=sender)
    await record.write(pool, fold([waiting(message)]))
    with suppress(RuntimeError):
        async with pool.transaction() as connection:
            await connection.execute("UPDATE agent_messages SET status = 'failed'")
            assert await bounces.tell(connection, [(message.id, message.created_at)]) == 1
            raise RuntimeError
    assert await notes(pool) == []
    await record.write(pool, fold([ending(message)]))
    assert len(await notes(pool)) == 1
