"""Inboxes in Postgres: pages that neither skip nor repeat while messages come and go, totals with a bound."""

import asyncio
import random
from datetime import UTC, datetime, timedelta

import pytest
from ledger_events import AGENTS, envelope, now_ms, settled
from msgspec import Raw

from broker.core.fold import fold
from broker.store import inbox, messages, record
from broker.store.inbox import InboxFilter, Total
from broker.store.pool import Pool
from schema.ids import new_id
from schema.ledger import EventKind
from schema.message import Envelope, Status

TO = AGENTS[0]


async def stored(pool: Pool, *made: Envelope, status: Status = Status.PENDING) -> None:
    events = [settled(one, kind=EventKind.ROUTED, status=status, attempt=None) for one in made]
    await record.write(pool, fold(events))


async def paged(pool: Pool, wanted: InboxFilter) -> list[str]:
    """Every id, page by page."""
    ids: list[str] = []
    cursor = None
    while True:
        filter = InboxFilter(
            agent_id=wanted.agent_id,
            status=wanted.status,
            message_type=wanted.message_type,
            limit=wanted.limit,
            cursor=cursor,
        )
        page = await inbox.page(pool, filter, now_ms=now_ms())
        ids += [view.id for view in page.items]
        cursor = page.cursor
        if cursor is None:
            return ids
        assert len(page.items) == wanted.limit


def some(count: int, chance: random.Random, base: datetime, **fields: object) -> list[Envelope]:
    """Messages of few priorities and few moments, so that every part of the order decides somewhere."""
    return [
        envelope(
            priority=chance.choice((1, 5, 5, 10)),
            created_at=base - timedelta(minutes=chance.choice((0, 0, 1, 700, 1_300))),
            message_type=chance.choice(("task", "ping")),
            **fields,
        )
        for _ in range(count)
    ]


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize(
    ("status", "message_type"), [(Status.PENDING, None), (Status.PENDING, "task"), (None, None)]
)
async def test_paging_while_messages_arrive_shows_all_that_was_there_once_and_in_order(
    any_pool: Pool, seed: int, status: Status | None, message_type: str | None
) -> None:
    chance, base = random.Random(seed), datetime.now(UTC)
    there = some(60, chance, base)
    await stored(any_pool, *there)
    over = asyncio.Event()

    async def go_on_writing() -> None:
        while not over.is_set():
            await stored(any_pool, *some(chance.randint(1, 5), chance, base))

    wanted = InboxFilter(
        agent_id=TO, status=status, message_type=message_type, limit=chance.choice((1, 3, 7))
    )
    async with asyncio.TaskGroup() as group:
        group.create_task(go_on_writing())
        found = await paged(any_pool, wanted)
        over.set()
    assert len(found) == len(set(found))
    was_there = {one.id: one for one in there if message_type in (None, one.message_type)}
    shown = [id for id in found if id in was_there]
    assert shown == sorted(was_there, key=lambda id: (was_there[id].priority, was_there[id].created_at, id))


async def test_paging_while_messages_are_read_shows_each_of_them_at_most_once(any_pool: Pool) -> None:
    chance = random.Random(5)
    there = some(40, chance, datetime.now(UTC))
    await stored(any_pool, *there)
    seen: list[str] = []
    cursor = None
    while True:
        filter = InboxFilter(agent_id=TO, limit=3, cursor=cursor)
        page = await inbox.page(any_pool, filter, now_ms=now_ms())
        seen += [view.id for view in page.items]
        for view in page.items:
            await messages.transition(any_pool, view.id, Status.DELIVERED, now_ms=now_ms())
        cursor = page.cursor
        if cursor is None:
            break
    assert sorted(seen) == sorted(one.id for one in there)
    assert await inbox.total(any_pool, InboxFilter(agent_id=TO), now_ms=now_ms()) == Total(0)


TOTALS = [
    (Status.PENDING, None, 100, Total(6)),
    (Status.PENDING, None, 6, Total(6)),
    (Status.PENDING, None, 5, Total(5, is_lower_bound=True)),
    (Status.PENDING, "task", 100, Total(4)),
    (Status.PENDING, "task", 3, Total(3, is_lower_bound=True)),
    (Status.PENDING, "other", 3, Total(0)),
    (Status.DELIVERED, None, 100, Total(3)),
    (Status.FAILED, None, 100, Total(0)),
    (None, None, 100, Total(10)),
    (None, None, 10, Total(10)),
    (None, None, 9, Total(9, is_lower_bound=True)),
    (None, "task", 10, Total(4)),
]
"""status, type, how far to count, what comes out"""


async def test_totals_are_exact_up_to_their_bound_and_say_so_beyond(any_pool: Pool) -> None:
    """Six pending ones, of which four are tasks; three delivered; one expired that nobody has recorded."""
    await stored(any_pool, *(envelope(message_type="task") for _ in range(4)))
    await stored(any_pool, *(envelope(message_type="ping") for _ in range(2)))
    await stored(any_pool, *(envelope(message_type="ping") for _ in range(3)), status=Status.DELIVERED)
    past = datetime.now(UTC) - timedelta(seconds=1)
    await stored(any_pool, envelope(message_type="ping", expires_at=past))
    await stored(any_pool, envelope(to_agent_id=AGENTS[1]))
    for status, message_type, counted_max, wanted in TOTALS:
        filter = InboxFilter(agent_id=TO, status=status, message_type=message_type)
        total = await inbox.total(any_pool, filter, now_ms=now_ms(), counted_max=counted_max)
        assert total == wanted, (status, message_type, counted_max)


async def test_a_total_by_type_that_stopped_looking_is_a_lower_bound(any_pool: Pool) -> None:
    await stored(any_pool, *(envelope() for _ in range(5)), status=Status.DELIVERED)
    filter = InboxFilter(agent_id=TO, status=Status.DELIVERED, message_type="task")
    assert await inbox.total(any_pool, filter, now_ms=now_ms(), counted_max=4) == Total(
        0, is_lower_bound=True
    )
    assert await inbox.total(any_pool, filter, now_ms=now_ms(), counted_max=5) == Total(0)


@pytest.mark.parametrize(
    "statement", ["_PENDING", "_PENDING_OF_TYPE", "_COUNT_PENDING", "_COUNT_PENDING_OF_TYPE"]
)
async def test_what_is_pending_is_read_from_an_index(pool: Pool, statement: str) -> None:
    await stored(pool, *(envelope(to_agent_id=new_id()) for _ in range(3_000)))
    await stored(pool, *(envelope() for _ in range(60)))
    await pool.execute("VACUUM ANALYZE agent_messages")
    now, start = datetime.now(UTC), messages.START
    arguments: tuple[object, ...] = (TO, now, 10_001)
    if statement in ("_PENDING", "_PENDING_OF_TYPE"):
        arguments = (TO, now, start.priority, start.created_at, start.id, 51)
    if statement.endswith("_OF_TYPE"):
        arguments += ("message",)
    plan = await pool.fetch("EXPLAIN " + getattr(inbox, statement), *arguments)
    text = "\n".join(row[0] for row in plan)
    today = f"agent_messages_p{datetime.now(UTC):%Y%m%d}"
    assert f"Seq Scan on {today}" not in text
    assert f"{today}_to_agent_id" in text, text


async def test_replies_are_found_by_what_they_answer(any_pool: Pool) -> None:
    question, sent_ms, asked = new_id(), now_ms(), datetime.now(UTC)
    made = [envelope(reply_to=question, created_at=asked + timedelta(milliseconds=n)) for n in (2, 1)]
    bounce = envelope(reply_to=question, metadata=Raw(b'{"automatic": true}'))
    await stored(any_pool, *made, bounce, envelope(reply_to=new_id()))
    found = await messages.replies_to(any_pool, question, sent_ms=sent_ms)
    assert [view.id for view in found] == [one.id for one in reversed(made)]


async def test_names_of_senders_are_known_also_when_they_are_gone(pool: Pool) -> None:
    here, gone, stranger = new_id(), new_id(), new_id()
    for id, name, deleted in ((here, "here", None), (gone, "gone", datetime.now(UTC))):
        await pool.execute(
            "INSERT INTO agents (id, name, type, max_concurrent_jobs, concurrency, created_at, updated_at,"
            " deleted_at) VALUES ($1, $2, 'agent', 1, 1, now(), now(), $3)",
            *(id, name, deleted),
        )
    assert await inbox.sender_names(pool, [here, gone, stranger]) == {here: "here", gone: "gone"}
