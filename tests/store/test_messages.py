"""Messages as the edge asks for them: pages in order, guarded changes of status."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from ledger_events import AGENTS, envelope, now_ms, settled
from msgspec import Raw

from broker.core.fold import fold
from broker.store import messages, record
from broker.store.messages import MessageFilter
from broker.store.pool import Pool
from schema.errors import IllegalTransition, NotFound, Rejected
from schema.ids import new_id
from schema.message import Envelope, Status


async def stored(pool: Pool, *made: Envelope, status: Status = Status.PENDING, **fields) -> None:
    events = [settled(message, status=status, attempt=None, **fields) for message in made]
    await record.write(pool, fold(events))


async def listed(pool: Pool, **wanted) -> list[str]:
    """Every id, by small pages."""
    ids: list[str] = []
    cursor = None
    while True:
        page = await messages.list_page(pool, MessageFilter(**wanted, limit=3, cursor=cursor))
        ids += [view.id for view in page.items]
        cursor = page.cursor
        if cursor is None:
            return ids
        assert len(page.items) == 3


async def test_pages_are_ordered_by_priority_and_time_over_days_and_statuses(any_pool: Pool) -> None:
    base = datetime.now(UTC)
    made = [
        envelope(
            priority=1 + n % 3,
            created_at=base - timedelta(hours=5 * (n % 5)),
            from_agent_id=AGENTS[1],
            conversation_id="c",
            message_type="task" if n % 2 else "note",
        )
        for n in range(20)
    ]
    await stored(any_pool, *made[:10])
    await stored(any_pool, *made[10:], status=Status.DELIVERED)
    await stored(any_pool, envelope(to_agent_id=AGENTS[2]))
    ordered = sorted(made, key=lambda message: (message.priority, message.created_at, message.id))

    def ids(chosen: list[Envelope]) -> list[str]:
        return [message.id for message in chosen]

    everything = ids(ordered)
    for wanted in (
        {"to_agent_id": AGENTS[0]},
        {"from_agent_id": AGENTS[1]},
        {"conversation_id": "c"},
        {"to_agent_id": AGENTS[0], "from_agent_id": AGENTS[1], "conversation_id": "c"},
    ):
        assert await listed(any_pool, **wanted) == everything
        tasks = ids([message for message in ordered if message.message_type == "task"])
        assert await listed(any_pool, **wanted, message_type="task") == tasks
        pending = set(ids(made[:10]))
        assert await listed(any_pool, **wanted, status=Status.PENDING) == [
            id for id in everything if id in pending
        ]
    assert len(await listed(any_pool)) == 21
    assert await listed(any_pool, conversation_id="d") == []


async def test_a_cursor_that_is_none_of_ours_is_refused(pool: Pool) -> None:
    for junk in ("nonsense", "WzFd", "W10"):
        with pytest.raises(Rejected):
            await messages.list_page(pool, MessageFilter(cursor=junk))


async def test_an_inbox_is_read_from_its_index(pool: Pool) -> None:
    await stored(pool, *(envelope(to_agent_id=new_id()) for _ in range(3_000)))
    await pool.execute("ANALYZE agent_messages")
    start = messages.START
    plan = await pool.fetch(
        "EXPLAIN " + messages._BY_RECIPIENT,
        *(AGENTS[0], None, None, ["pending"], None, start.priority, start.created_at, start.id, 51),
    )
    text = "\n".join(row[0] for row in plan)
    assert f"Seq Scan on agent_messages_p{datetime.now(UTC):%Y%m%d}" not in text
    assert "to_agent_id_status_priority" in text


async def test_a_change_of_status_is_made_once_and_repeating_it_is_fine(any_pool: Pool) -> None:
    message = envelope()
    await stored(any_pool, message, mailbox_entry="9-0")
    at_ms = now_ms()
    first = await messages.transition(any_pool, message.id, Status.PROCESSED, now_ms=at_ms, result=b'{"a":1}')
    again = await messages.transition(any_pool, message.id, Status.PROCESSED, now_ms=at_ms + 5)
    assert (first.changed, again.changed) == (True, False)
    assert first.stored.mailbox_entry == again.stored.mailbox_entry == "9-0"
    assert first.view.processed_at == again.view.processed_at
    assert bytes(again.view.result or b"") == b'{"a": 1}'
    assert first.view.delivered_at is not None


@pytest.mark.parametrize("wanted", [Status.CANCELLED, Status.DELIVERED, Status.FAILED])
async def test_a_terminal_message_stays_as_it_is(pool: Pool, wanted: Status) -> None:
    message = envelope()
    await stored(pool, message, status=Status.PROCESSED)
    with pytest.raises(IllegalTransition):
        await messages.transition(pool, message.id, wanted, now_ms=now_ms())


async def test_of_two_that_race_one_wins(pool: Pool) -> None:
    for _ in range(5):
        message = envelope()
        await stored(pool, message)
        ends = (Status.PROCESSED, Status.CANCELLED, Status.FAILED)
        results = await asyncio.gather(
            *(messages.transition(pool, message.id, end, now_ms=now_ms()) for end in ends),
            return_exceptions=True,
        )
        assert sum(isinstance(result, IllegalTransition) for result in results) == 2


async def test_unknown_messages_are_not_found(pool: Pool) -> None:
    assert await messages.get(pool, new_id()) is None
    assert await messages.route_of(pool, new_id()) is None
    with pytest.raises(NotFound):
        await messages.transition(pool, new_id(), Status.PROCESSED, now_ms=now_ms())


async def test_the_explanation_of_a_route_is_kept(pool: Pool) -> None:
    message = envelope()
    await stored(pool, message, route=Raw(b'{"chosen": "a"}'))
    assert await messages.route_of(pool, message.id) == b'{"chosen": "a"}'
