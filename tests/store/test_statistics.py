"""Statistics: whatever happened, in whatever order and however often it was told, they say what is there."""

import asyncio
import math
import re
from collections import Counter
from datetime import UTC, date, datetime, timedelta

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ledger_events import AGENTS, envelope, ledgers, now_ms, readings, settled

from broker.core.fold import fold
from broker.store import dead_letters, messages, migrate, partitions, record, statistics
from broker.store.pool import Pool, open_pool
from broker.store.statements import load
from broker.store.statistics import DEPLOYMENT, Counted
from schema.errors import IllegalTransition
from schema.ids import new_id
from schema.ledger import EventKind
from schema.limits import STATISTICS_WORDS_MAX
from schema.message import Status
from schema.times import from_ms, to_ms

HOUR_MS = 3_600_000
SIDES = {"all": None, "received": "to_agent_id", "sent": "from_agent_id"}

# The database is fresh per test, not per example; what is counted is all that is in it.
on_one_database = settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def minutes_since() -> int:
    return (now_ms() - HOUR_MS) // 60_000 * 60_000


async def counted(pool: Pool, agent_id: str = DEPLOYMENT, since: date = statistics.EVER) -> Counted:
    return await statistics.read(pool, agent_id, since=since, minutes_since_ms=minutes_since())


async def fold_all(pool: Pool, messages: int = 1_000) -> int:
    total = 0
    while folded := await statistics.fold(pool, messages=messages, minutes_since_ms=minutes_since()):
        if not folded.deltas:
            break
        total += folded.messages
    return total


def plain(found: Counted) -> dict[str, Counter[tuple[object, ...]]]:
    """What was counted, comparable."""
    times: Counter[tuple[object, ...]] = Counter()
    for one in found.deliveries:
        times[one.side, one.bucket, "messages"] += one.messages
        times[one.side, one.bucket, "ms"] += one.total_ms
    points: Counter[tuple[object, ...]] = Counter()
    for point in found.minutes:
        for what in ("accepted", "delivered", "processed"):
            points[point.side, point.at_s, what] += getattr(point, what)
    return {
        "totals": +Counter({(t.side, t.status, t.message_type, t.reason): t.messages for t in found.totals}),
        "deliveries": +times,
        "minutes": +points,
    }


async def rows_of(pool: Pool) -> list[asyncpg.Record]:
    return await pool.fetch("SELECT * FROM agent_messages")


def brute_force(rows: list[asyncpg.Record], agent_id: str) -> dict[str, Counter[tuple[object, ...]]]:
    """Count the rows themselves."""
    totals: Counter[tuple[object, ...]] = Counter()
    times: Counter[tuple[object, ...]] = Counter()
    points: Counter[tuple[object, ...]] = Counter()
    for row in rows:
        for side, column in SIDES.items():
            mine = agent_id == DEPLOYMENT if column is None else str(row[column]) == agent_id
            if not mine:
                continue
            totals[side, row["status"], row["message_type"], reason_of(row)] += 1
            if row["round"] == 0 and row["delivered_at"] is not None:
                started = max(row["created_at"], row["deliver_at"] or row["created_at"])
                took_ms = max(0, round((row["delivered_at"] - started) / timedelta(milliseconds=1)))
                bucket = math.floor(math.log2(max(took_ms, 1)) * 6 + 1e-9)
                times[side, bucket, "messages"] += 1
                times[side, bucket, "ms"] += took_ms
            moments = {"accepted": "created_at", "delivered": "delivered_at", "processed": "processed_at"}
            for what, moment in moments.items():
                at_ms = 0 if row[moment] is None else to_ms(row[moment]) // 60_000 * 60_000
                if at_ms >= minutes_since():
                    points[side, at_ms // 1000, what] += 1
    return {"totals": +totals, "deliveries": +times, "minutes": +points}


def reason_of(row: asyncpg.Record) -> str:
    if row["status"] not in ("failed", "expired"):
        return ""
    reason = row["status_reason"] or ""
    return reason if re.fullmatch("[a-z][a-z0-9_]{0,63}", reason) else "other"


async def assert_exact(pool: Pool) -> None:
    rows = await rows_of(pool)
    for agent_id in (DEPLOYMENT, *AGENTS):
        assert plain(await counted(pool, agent_id)) == brute_force(rows, agent_id), agent_id


@st.composite
def histories(draw: st.DrawFn) -> list[tuple[object, ...]]:
    """A ledger read in windows, some of them again, with folds, changes by agents and replays in between."""
    events = draw(ledgers())
    for event in events:
        if event.kind is EventKind.SETTLED and event.reason is not None:
            event.reason = draw(st.sampled_from(["exhausted", "gone", "Whatever an agent says", None]))
    ids = sorted({event.id for event in events})
    steps: list[tuple[object, ...]] = []
    for start, end in draw(readings(len(events))):
        steps.append(("write", events[start:end]))
        steps += draw(
            st.lists(
                st.one_of(
                    st.just(("fold",)),
                    st.tuples(
                        st.just("change"),
                        st.sampled_from(ids),
                        st.sampled_from([Status.PROCESSED, Status.FAILED, Status.CANCELLED]),
                    ),
                    st.tuples(st.just("replay"), st.sampled_from(ids)),
                ),
                max_size=3,
            )
        )
    return steps


@on_one_database
@given(history=histories())
async def test_statistics_say_what_the_rows_say(pool: Pool, history: list[tuple[object, ...]]) -> None:
    for step in history:
        match step:
            case ("write", events):
                await record.write(pool, fold(events))
            case ("fold",):
                await fold_all(pool)
            case ("change", message_id, wanted):
                await change(pool, message_id, wanted)
            case ("replay", message_id):
                await replay(pool, message_id)
    await assert_exact(pool)
    await fold_all(pool)
    await assert_exact(pool)


async def change(pool: Pool, message_id: str, wanted: Status) -> None:
    if await messages.get(pool, message_id) is not None:
        try:
            await messages.transition(pool, message_id, wanted, now_ms=now_ms(), reason="said_so")
        except IllegalTransition:
            return


async def replay(pool: Pool, message_id: str) -> None:
    async with pool.transaction() as connection:
        for one in await dead_letters.lock(connection, [message_id]):
            again = envelope(message_id, created_at=one.letter.created_at, to_agent_id=AGENTS[1])
            again.round = one.letter.round + 1
            await dead_letters.restart(connection, [again])


async def test_a_batch_replayed_is_counted_once(any_pool: Pool) -> None:
    sent = [envelope(to_agent_id=AGENTS[n % 3], from_agent_id=AGENTS[3]) for n in range(30)]
    rows = [settled(one, at_ms=to_ms(one.created_at) + n) for n, one in enumerate(sent)]
    for _ in range(3):
        await record.write(any_pool, fold(rows))
        await fold_all(any_pool)
    found = await counted(any_pool)
    assert [(total.status, total.messages) for total in found.totals] == [("delivered", 30)]
    assert sum(one.messages for one in found.deliveries) == 30
    assert await any_pool.fetch_value("SELECT count(*) FROM statistics_deltas") == 0
    await assert_exact(any_pool)


async def test_another_attempt_notes_nothing(pool: Pool) -> None:
    message = envelope()
    await record.write(pool, fold([settled(message, status=Status.PENDING, attempt=None)]))
    await fold_all(pool)
    await pool.execute("UPDATE agent_messages SET retry_count = retry_count + 1")
    assert await pool.fetch_value("SELECT count(*) FROM statistics_deltas") == 0


async def test_writers_and_folders_at_the_same_time_lose_and_double_nothing(
    pool: Pool, database_url: str
) -> None:
    writing = 3
    other = await open_pool(database_url, application_name="tests")
    done = asyncio.Event()
    left = writing

    async def write(number: int) -> None:
        nonlocal left
        for turn in range(12):
            batch = [envelope(to_agent_id=AGENTS[(number + n) % 4]) for n in range(10)]
            pending = turn % 2 == 0
            first = {"status": Status.PENDING, "attempt": None} if pending else {}
            await record.write(pool, fold([settled(one, **first) for one in batch]))
            if pending:
                await record.write(pool, fold([settled(one) for one in batch]))
        left -= 1
        if not left:
            done.set()

    async def keep_folding(where: Pool) -> None:
        while not done.is_set():
            await fold_all(where, messages=15)

    async with asyncio.TaskGroup() as group:
        for number in range(writing):
            group.create_task(write(number))
        group.create_task(keep_folding(pool))
        group.create_task(keep_folding(other))
    await assert_exact(pool)
    await fold_all(pool)
    await assert_exact(pool)
    assert sum(total.messages for total in (await counted(pool)).totals) == writing * 12 * 10
    await other.aclose()


async def test_one_folds_at_a_time(pool: Pool) -> None:
    await record.write(pool, fold([settled(envelope())]))
    async with pool.transaction() as connection:
        assert await connection.fetchval(load("statistics_lock"))
        assert await statistics.fold(pool, messages=10, minutes_since_ms=0) is None
        assert await statistics.merge_days(pool, date.max) == 0
    folded = await statistics.fold(pool, messages=10, minutes_since_ms=0)
    assert folded is not None
    assert (folded.deltas, folded.messages) == (1, 1)


async def test_a_fold_takes_about_as_much_as_it_may(pool: Pool) -> None:
    for _ in range(5):
        await record.write(pool, fold([settled(envelope()) for _ in range(4)]))
    taken = []
    while (folded := await statistics.fold(pool, messages=6, minutes_since_ms=0)) and folded.deltas:
        taken.append(folded.messages)
    assert taken == [8, 8, 4]


async def test_made_up_types_and_reasons_are_counted_together_beyond_a_number(pool: Pool) -> None:
    wild = [envelope(message_type=f"type-{n:04}") for n in range(STATISTICS_WORDS_MAX + 20)]
    ends = {"status": Status.FAILED, "attempt": None}
    rows = [settled(one, **ends, reason=f"reason_{n:04}") for n, one in enumerate(wild)]
    await record.write(pool, fold(rows))
    for _ in ("unfolded", "folded"):
        totals = (await counted(pool)).totals
        types, reasons = Counter[str](), Counter[str]()
        for total in totals:
            types[total.message_type] += total.messages
            reasons[total.reason] += total.messages
        assert len(types) == len(reasons) == STATISTICS_WORDS_MAX + 1
        assert types["other"] == reasons["other"] == 20
        await fold_all(pool)
    # What began as a word of its own stays one, and takes itself back when it changes.
    await record.write(pool, fold([settled(envelope(message_type="type-0001"), **ends)]))
    await pool.execute("UPDATE agent_messages SET status = 'cancelled', status_reason = NULL")
    await fold_all(pool)
    found = (await counted(pool)).totals
    assert {total.status for total in found} == {"cancelled"}
    assert sum(total.messages for total in found if total.message_type == "type-0001") == 2


async def test_days_whose_messages_are_dropped_stay_counted_but_wait_no_more(pool: Pool) -> None:
    today = datetime.now(UTC).date()
    days = [today - timedelta(days=n) for n in (9, 8, 7, 0)]
    for day in days:
        await partitions.ensure_day(pool, day)
        made = datetime(day.year, day.month, day.day, tzinfo=UTC)
        ended = [settled(envelope(created_at=made), at_ms=to_ms(made) + 5) for _ in range(2)]
        waiting = settled(envelope(created_at=made), status=Status.PENDING, attempt=None)
        await record.write(pool, fold([*ended, waiting]))
    await fold_all(pool)
    # Not yet dropped: nothing is merged, whatever the day.
    assert await statistics.merge_days(pool, today) == 0
    await partitions.drop_older(pool, today, 7)
    while await statistics.merge_days(pool, today - timedelta(days=7)):
        pass
    found = await counted(pool)
    by_status = Counter({total.status: total.messages for total in found.totals})
    assert by_status == {"delivered": 8, "pending": 2}
    assert sum(one.messages for one in found.deliveries) == 8
    assert found.first_day == days[0]
    kept = await pool.fetch("SELECT DISTINCT day FROM statistics_totals ORDER BY day")
    assert [row["day"] for row in kept] == [days[0], days[2], days[3]]
    assert sum(total.messages for total in (await counted(pool, since=days[2])).totals) == 6


async def test_delivery_times_of_before_their_table_are_carried_over_exactly(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = await asyncpg.connect(empty_database_url)
    for migration in migrate.migrations():
        if migration.version < 14:
            await connection.execute(migration.text)
    today = datetime.now(UTC).date()
    days = [today - timedelta(days=9), today]
    kept = [
        (agent, side, day, bucket, 10 + bucket, 1_000 * bucket)
        for agent, side in ((DEPLOYMENT, "all"), (AGENTS[0], "received"), (AGENTS[1], "sent"))
        for day in days
        for bucket in range(20)
    ]
    # What a fold of the release before did, also with a keeper of it that runs on beside this one.
    earlier_fold = (
        "INSERT INTO statistics_deliveries AS t VALUES ($1, $2, $3, $4, $5, $6)"
        " ON CONFLICT (agent_id, side, day, bucket)"
        " DO UPDATE SET messages = t.messages + excluded.messages, total_ms = t.total_ms + excluded.total_ms"
    )
    await connection.executemany(earlier_fold, kept)
    await migrate.migrate(empty_database_url)
    pool = await open_pool(empty_database_url, application_name="tests")

    def expected(times: int, since: date, extra: int) -> dict[str, Counter[tuple[object, ...]]]:
        found: dict[str, Counter[tuple[object, ...]]] = {}
        for agent, side, day, bucket, number, total_ms in kept:
            if day >= since:
                of_agent = found.setdefault(agent, Counter())
                of_agent[side, bucket, "messages"] += times * number
                of_agent[side, bucket, "ms"] += times * total_ms
        for agent, side in ((DEPLOYMENT, "all"), (AGENTS[0], "received"), (AGENTS[1], "sent")):
            found[agent][side, 12, "messages"] += extra
            found[agent][side, 12, "ms"] += 4 * extra
        return {agent: +of_agent for agent, of_agent in found.items()}

    async def assert_counted(times: int, extra: int) -> None:
        for since in (statistics.EVER, today):
            found = {
                agent: plain(await counted(pool, agent, since=since))["deliveries"]
                for agent in (DEPLOYMENT, *AGENTS[:2])
            }
            assert found == expected(times, since, extra)

    await assert_counted(1, 0)
    made = from_ms(now_ms())
    sent = envelope(created_at=made, to_agent_id=AGENTS[0], from_agent_id=AGENTS[1])
    await record.write(pool, fold([settled(sent, at_ms=to_ms(made) + 4)]))
    await assert_counted(1, 1)
    await fold_all(pool)
    await assert_counted(1, 1)
    monkeypatch.setattr(statistics, "BATCH_ROWS", 7)
    moved = []
    while batch := await statistics.move_deliveries(pool):
        moved.append(batch)
        await assert_counted(1, 1)
    assert sum(moved) == len(kept)
    await connection.executemany(earlier_fold, kept)
    await assert_counted(2, 1)
    monkeypatch.setattr(statistics, "BATCH_ROWS", 1_000)
    assert await statistics.move_deliveries(pool) == len(kept)
    assert await pool.fetch_value("SELECT count(*) FROM statistics_deliveries") == 0
    await assert_counted(2, 1)
    await pool.aclose()
    await connection.close()


async def test_minutes_that_are_over_are_forgotten(pool: Pool) -> None:
    await record.write(pool, fold([settled(envelope())]))
    await fold_all(pool)
    assert len((await counted(pool)).minutes) in (1, 2)
    assert await statistics.forget_minutes(pool, now_ms() - HOUR_MS) == 0
    assert await statistics.forget_minutes(pool, now_ms() + HOUR_MS) > 0
    assert (await counted(pool)).minutes == []


async def test_more_than_can_be_added_says_so(pool: Pool) -> None:
    await record.write(pool, fold([settled(envelope()) for _ in range(3)]))
    assert (await counted(pool)).complete
    await pool.execute("UPDATE statistics_deltas SET messages = 10000000")
    found = await counted(pool)
    assert not found.complete
    assert found.totals == []


async def test_messages_there_before_the_statistics_are_counted(empty_database_url: str) -> None:
    connection = await asyncpg.connect(empty_database_url)
    earlier = [one for one in migrate.migrations() if one.version < 5]
    for migration in earlier:
        await connection.execute(migration.text)
    made = from_ms(now_ms())
    await connection.executemany(
        "INSERT INTO agent_messages (id, created_at, priority, status, message_type, content, metadata)"
        " VALUES ($1, $2, 5, 'pending', 'task', '{}', '{}')",
        [(new_id(), made) for _ in range(2_500)],
    )
    await connection.close()
    await migrate.migrate(empty_database_url)
    pool = await open_pool(empty_database_url, application_name="tests")
    assert [total.messages for total in (await counted(pool)).totals] == [2_500]
    await pool.aclose()


async def test_work_orders_are_counted_by_status(pool: Pool) -> None:
    async def add(status: str, worker: str, requester: str) -> None:
        await pool.execute(
            "INSERT INTO work_orders (id, requester_id, worker_id, status, finished_at, created_at,"
            " updated_at, is_open, title, description, requirements) VALUES ($1, $2, $3, $4,"
            " CASE WHEN $4 = 'pending' THEN NULL ELSE now() END, now(), now(), false, 't', 'd', '{}')",
            new_id(),
            requester,
            worker,
            status,
        )

    for status in ("pending", "pending", "rejected"):
        await add(status, AGENTS[0], AGENTS[1])
    await add("cancelled", AGENTS[1], AGENTS[0])
    for _ in ("unfolded", "folded"):
        assert await statistics.orders(pool) == {"pending": 2, "rejected": 1, "cancelled": 1}
        await fold_all(pool)
    await pool.execute(
        "UPDATE work_orders SET status = 'cancelled', finished_at = now() WHERE status = 'pending'"
    )
    await fold_all(pool)
    assert await statistics.orders(pool) == {"rejected": 1, "cancelled": 3}
    own = await statistics.orders_of_agent(pool, AGENTS[0])
    assert (own.worker, own.requester) == ({"cancelled": 2, "rejected": 1}, {"cancelled": 1})
