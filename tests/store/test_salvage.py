"""A batch with something wrong in it: the rest is written, the culprit is kept, nothing blocks."""

from datetime import UTC, datetime, timedelta

import pytest
from ledger_events import envelope, failed, now_ms, settled
from msgspec import Raw

from broker.core.fold import QuarantineRow, fold
from broker.store import messages, record
from broker.store.partitions import kept
from broker.store.pool import Pool
from broker.store.salvage import Saved, save
from schema.errors import DataFault
from schema.ledger import Event
from schema.message import Status

RETENTION_DAYS = 30


async def saved(pool: Pool, events: list[Event]) -> Saved:
    return await save(
        pool,
        fold(events, shard=1),
        kept=kept(datetime.now(UTC).date(), RETENTION_DAYS),
        shard=1,
        now_ms=now_ms(),
    )


POISON = {
    "NUL in JSON": {"content": Raw(b'{"text": "\\u0000"}')},
    "unpaired surrogate": {"content": Raw(b'{"text": "\\ud800"}')},
    "no JSON": {"content": Raw(b'{"a": 01}')},
    "separator": {"conversation_id": "a\x1eb"},
    "NUL in text": {"conversation_id": "a\x00b"},
    "no UUID": {"from_agent_id": "me"},
    "priority beyond smallint": {"priority": 99_999},
}


@pytest.mark.parametrize("poison", POISON.values(), ids=POISON.keys())
async def test_one_bad_row_is_quarantined_and_the_others_are_written(
    any_pool: Pool, poison: dict[str, object]
) -> None:
    good = [envelope() for _ in range(20)]
    bad = envelope(**poison)
    events = [settled(message) for message in (*good[:7], bad, *good[7:])]
    await saved(any_pool, events)
    assert await any_pool.fetch_value("SELECT count(*) FROM agent_messages") == len(good)
    # The attempt was made, whatever became of the message's row.
    assert await any_pool.fetch_value("SELECT count(*) FROM message_delivery_log") == len(good) + 1
    (row,) = await any_pool.fetch("SELECT * FROM quarantine")
    assert (row["shard"], row["stream"], row["entry"]) == (1, "ledger", bad.id)
    assert bad.id.encode() in row["raw"]


async def test_saving_again_quarantines_nothing_twice(pool: Pool) -> None:
    events = [settled(envelope(priority=99_999)), settled(envelope())]
    await saved(pool, events)
    await saved(pool, events)
    assert await pool.fetch_value("SELECT count(*) FROM quarantine") == 1
    assert await pool.fetch_value("SELECT count(*) FROM message_delivery_log") == 2


async def test_a_missing_day_that_is_kept_is_made(any_pool: Pool) -> None:
    message = envelope(created_at=datetime.now(UTC) - timedelta(days=RETENTION_DAYS - 1))
    assert not (await saved(any_pool, [settled(message)])).refused
    assert await messages.get(any_pool, message.id) is not None


@pytest.mark.parametrize("days", [-RETENTION_DAYS - 2, 9])
async def test_a_day_that_is_not_kept_sends_the_row_to_quarantine(pool: Pool, days: int) -> None:
    message = envelope(created_at=datetime.now(UTC) + timedelta(days=days))
    result = await saved(pool, [settled(message), settled(envelope())])
    assert result.refused_messages == {message.id}
    assert [fault.code for _, fault in result.refused] == ["partition_missing"]
    assert await pool.fetch_value("SELECT count(*) FROM agent_messages") == 1


async def test_a_time_no_date_exists_for_is_survived(pool: Pool) -> None:
    message = envelope()
    beyond = settled(message, attempt=failed(1, 10**17))
    result = await saved(pool, [beyond])
    assert [fault.code for _, fault in result.refused] == ["data_fault"]
    assert await messages.get(pool, message.id) is not None


async def test_a_plain_write_takes_all_or_nothing(pool: Pool) -> None:
    events = [settled(envelope()), settled(envelope(content=Raw(b'{"a": "\\u0000"}')))]
    with pytest.raises(DataFault):
        await record.write(pool, fold(events))
    assert await pool.fetch_value("SELECT count(*) FROM agent_messages") == 0


async def test_quarantined_entries_are_kept_once_beside_what_else_happened(pool: Pool) -> None:
    rows = fold([settled(envelope(), status=Status.PENDING, attempt=None)])
    for raw in (b"first", b"second"):
        rows.quarantine = [
            QuarantineRow(
                at_ms=now_ms(), shard=0, stream="s", entry="1-0", reason="malformed", detail=None, raw=raw
            )
        ]
        await record.write(pool, rows)
    assert [row["raw"] for row in await pool.fetch("SELECT raw FROM quarantine")] == [b"first"]
