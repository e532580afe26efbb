"""New messages: inserted, they say exactly what merged ones say, and it gives way where one is known."""

from datetime import UTC, datetime, timedelta

import pytest
from ledger_events import AGENTS, envelope, failed, now_ms, settled, succeeded
from msgspec import Raw

from broker.core.fold import Rows, fold
from broker.store import messages, partitions, record, statistics
from broker.store.faults import PartitionMissing
from broker.store.pool import Pool
from broker.store.salvage import save
from schema.ids import new_id
from schema.ledger import Event, EventKind
from schema.message import Status

MANY = record.NEW_AMONG_OTHERS_MIN
EVERYTHING = "SELECT * FROM agent_messages ORDER BY id"
EVERY_ATTEMPT = "SELECT * FROM message_delivery_log ORDER BY message_id, attempt"


def varied(count: int = MANY) -> list[Event]:
    """Messages finished at their first attempt, with everything such a message may have."""
    return [finished(number) for number in range(count)]


def finished(number: int) -> Event:
    at = datetime.now(UTC) - timedelta(microseconds=number * 37)
    message = envelope(created_at=at, content=Raw(b'{"n": %d, "text": "\xc3\xa4 \\\\ \\n"}' % number))
    fields: dict = {"attempt": succeeded(1, now_ms() + number)}
    match number % 8:
        case 1:
            message.from_agent_id, message.conversation_id, message.hop = AGENTS[1], "", 3
        case 2:
            message.reply_to, message.root_id = new_id(), new_id()
        case 3:
            message.expires_at, message.deliver_at = at + timedelta(hours=1), at + timedelta(milliseconds=1)
        case 4:
            fields |= {"status": Status.PROCESSED, "result": Raw(b'{"ok": [1, 2.50, null]}')}
        case 5:
            message.requirements, fields["route"] = ["one", "two"], Raw(b'{"chosen": "x"}')
        case 6:
            message.deliver_at, message.conversation_id = at - timedelta(hours=1), "c" * 100
        case 7:
            message.metadata, message.message_type = Raw(b'{"retry_policy": "none"}'), "t" * 60
    return settled(message, **fields)


async def written(pool: Pool) -> tuple[object, ...]:
    """What the tables and the statistics say."""
    found = await pool.fetch(EVERYTHING), await pool.fetch(EVERY_ATTEMPT)
    counted = await statistics.read(pool, statistics.DEPLOYMENT, minutes_since_ms=0)
    return *([tuple(row.values()) for row in table] for table in found), counted


async def merge_alone(pool: Pool, rows: Rows, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(record, "is_new", lambda row: False)
        await record.write(pool, rows)


async def emptied(pool: Pool) -> None:
    await pool.execute("TRUNCATE agent_messages, message_delivery_log, statistics_deltas")


async def test_inserted_rows_say_what_merged_ones_say(
    any_pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = fold(varied())
    assert all(map(record.is_new, rows.messages))
    await record.write(any_pool, rows)
    inserted = await written(any_pool)
    assert len(inserted[0]) == len(inserted[1]) == MANY
    await emptied(any_pool)
    await merge_alone(any_pool, rows, monkeypatch)
    assert await written(any_pool) == inserted


async def test_inserted_rows_are_counted_for_sender_and_recipient_alike(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = fold(varied())
    await record.write(pool, rows)
    inserted = [await statistics.read(pool, agent, minutes_since_ms=0) for agent in AGENTS]
    assert sum(total.messages for total in inserted[0].totals if total.side == "received") == MANY
    assert sum(total.messages for total in inserted[1].totals if total.side == "sent") == MANY // 8
    await emptied(pool)
    await merge_alone(pool, rows, monkeypatch)
    assert [await statistics.read(pool, agent, minutes_since_ms=0) for agent in AGENTS] == inserted


async def test_a_batch_read_again_changes_and_counts_nothing(pool: Pool) -> None:
    events = varied()
    await record.write(pool, fold(events))
    before = await written(pool)
    await record.write(pool, fold(events))
    assert await written(pool) == before


async def test_a_batch_of_which_a_part_is_known_adds_the_rest(pool: Pool) -> None:
    events = varied(MANY + 8)
    await record.write(pool, fold(events[:MANY]))
    await record.write(pool, fold(events[8:]))
    assert len(await pool.fetch(EVERYTHING)) == len(await pool.fetch(EVERY_ATTEMPT)) == MANY + 8
    counted = await statistics.read(pool, statistics.DEPLOYMENT, minutes_since_ms=0)
    assert sum(total.messages for total in counted.totals) == MANY + 8


async def test_what_is_not_new_is_merged_in_the_same_transaction(pool: Pool) -> None:
    earlier, whole = envelope(), envelope()
    await record.write(pool, fold([settled(earlier, status=Status.PENDING, attempt=None)]))
    end = Event(
        kind=EventKind.SETTLED, id=earlier.id, at_ms=now_ms(), status=Status.EXPIRED, reason="expired"
    )
    tried = settled(whole, status=Status.PENDING, attempt=failed(1, now_ms()))
    unknown = Event(kind=EventKind.SETTLED, id=new_id(), at_ms=now_ms(), status=Status.EXPIRED)
    assert await record.write(pool, fold([*varied(), end, tried, unknown])) == [unknown.id]
    found = [await messages.get(pool, message.id) for message in (earlier, whole)]
    assert [view.status for view in found if view is not None] == ["expired", "pending"]
    assert len(await pool.fetch(EVERY_ATTEMPT)) == MANY + 1


async def test_a_batch_is_inserted_unless_that_is_refused(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    merged: list[Rows] = []
    merge = record._merge

    async def noted(pool: Pool, rows: Rows) -> list[str]:
        merged.append(rows)
        return await merge(pool, rows)

    monkeypatch.setattr(record, "_merge", noted)
    rows = fold(varied(8))
    await record.write(pool, rows)
    assert not merged
    await record.write(pool, rows)
    assert merged[-1] is rows
    assert len(await pool.fetch(EVERYTHING)) == 8


async def test_rows_of_two_days_go_into_both(pool: Pool) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    events = varied()
    events[5] = settled(envelope(created_at=yesterday), at_ms=int(yesterday.timestamp() * 1000))
    await record.write(pool, fold(events))
    assert len(await pool.fetch(EVERYTHING)) == len(await pool.fetch(EVERY_ATTEMPT)) == MANY


async def test_a_day_without_a_partition_is_told_as_such(pool: Pool) -> None:
    events = [*varied(), settled(envelope(created_at=datetime(2001, 1, 1, tzinfo=UTC)))]
    with pytest.raises(PartitionMissing):
        await record.write(pool, fold(events))
    assert await pool.fetch(EVERYTHING) == []


@pytest.mark.parametrize("bad", [{"hop": 70_000}, {"conversation_id": "a\x00b"}, {"reply_to": "nobody"}])
async def test_a_row_that_is_refused_leaves_the_others_in_place(pool: Pool, bad: dict) -> None:
    rows = fold(varied())
    culprit = rows.messages[3]
    assert culprit.message is not None
    for name, value in bad.items():
        setattr(culprit.message, name, value)
    kept = partitions.kept(datetime.now(UTC).date(), 7)
    saved = await save(pool, rows, kept=kept, shard=0, now_ms=now_ms())
    assert saved.refused_messages == {culprit.id}
    assert len(await pool.fetch(EVERYTHING)) == MANY - 1


@pytest.mark.parametrize(
    "difference",
    [{"status": Status.FAILED}, {"round": 1}, {"retry_count": 1}, {"to": None}, {"mailbox_entry": "1-0"},
     {"delivered_ms": None}, {"placed_ms": None}, {"reason": "a reason"}, {"message": None}],
)  # fmt: skip
def test_only_what_was_finished_at_its_first_attempt_is_new(difference: dict) -> None:
    (row,) = fold([settled(envelope())]).messages
    assert record.is_new(row)
    for name, value in difference.items():
        setattr(row, name, value)
    assert not record.is_new(row)


@pytest.mark.parametrize("is_alike", [True, False], ids=["alike", "different"])
async def test_rows_say_the_same_however_many_are_written_at_once(pool: Pool, is_alike: bool) -> None:
    events = [finished(0 if is_alike else number) for number in range(16)]
    await record.write(pool, fold(events))
    together = await written(pool)
    assert len(together[0]) == len(together[1]) == 16
    await emptied(pool)
    for event in events:
        await record.write(pool, fold([event]))
    assert await written(pool) == together


async def test_attempts_are_written_whether_or_not_each_message_has_one(pool: Pool) -> None:
    events = varied(8)
    for event in events[2:4]:
        event.attempt = None
    await record.write(pool, fold(events))
    tried = {str(row["message_id"]) for row in await pool.fetch(EVERY_ATTEMPT)}
    assert tried == {event.id for event in (*events[:2], *events[4:])}
    untried = settled(envelope(), attempt=None)
    await record.write(pool, fold([untried]))
    assert len(await pool.fetch(EVERYTHING)) == 9
    assert len(await pool.fetch(EVERY_ATTEMPT)) == 6
