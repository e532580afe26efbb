"""Work orders by the clock, and the outbox: on a real Postgres and Valkey, by jobs and by whole keepers."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from keeper_rig import StartKeeper, until

from broker.store import outbox, work_orders
from broker.store import work_order_changes as changes
from broker.store import work_order_log as log
from broker.store.agents import register
from broker.store.keys import StoredKey
from broker.store.pool import Pool
from broker.store.statements import load
from broker.store.work_order_changes import Changed, Draft, Wish
from broker.streams.connection import Connection
from broker.streams.ingress import Publisher
from broker.streams.keys import Keys
from broker.streams.lanes import IngressEntry
from schema.agent import Agent
from schema.errors import DataFault, LeaseLost, StreamsUnavailable
from schema.ids import new_id
from schema.message import LANES, Envelope
from schema.work_order import Action
from workers.keeping.outbox import OutboxRelay
from workers.keeping.work_orders import WorkOrders

SHARDS = 2
HOUR = timedelta(hours=1)


async def agent(pool: Pool, **more: Any) -> str:
    agent_id = new_id()
    key = StoredKey(id=new_id(), agent_id=agent_id, scopes=(), hash=b"h", prefix="abk", created_ms=1)
    made = Agent(id=agent_id, name=agent_id, created_ms=1, updated_ms=1, **more)
    await register(pool, made, key)
    return agent_id


async def make(pool: Pool, requester: str, worker: str | None = None, **more: Any) -> Changed:
    given: dict[str, Any] = {
        "id": new_id(),
        "requester_id": requester,
        "worker_id": worker,
        "title": "t",
        "description": "",
        "requirements": "{}",
        "capabilities": [] if worker else ["dig"],
        "budget_usd": None,
        "deadline_at": None,
    }
    return await changes.create(pool, Draft(**(given | more)))


async def do(pool: Pool, order_id: str, action: Action, agent_id: str | None, **more: Any) -> Changed:
    wish = Wish(action=action, agent_id=agent_id, **({"lease_ms": 60_000} | more))
    return await changes.change(pool, order_id, wish)


async def ingress(connection: Connection) -> list[Any]:
    """Return every message in the ingress of every shard."""
    found = []
    for shard in range(SHARDS):
        for lane in LANES:
            for entry_id, fields in await connection.send("XRANGE", Keys(shard).ingress[lane], "-", "+"):
                found += map(json.loads, IngressEntry(lane, entry_id.decode(), fields).messages)
    return found


def heard(messages: list[Any]) -> list[tuple[str, str, str]]:
    return sorted((m["to_agent_id"], m["message_type"], m["content"]["status"]) for m in messages)


async def overdue_at(pool: Pool, order_id: str) -> None:
    """Move a deadline into the past."""
    past = datetime.now(UTC) - HOUR
    await pool.execute("UPDATE work_orders SET deadline_at = $2 WHERE id = $1", order_id, past)


async def make_due(pool: Pool, *, age: timedelta = timedelta()) -> None:
    """Let the keeper have everything in the outbox, as if it had been there for some time."""
    added = datetime.now(UTC) - age
    await pool.execute("UPDATE outbox SET due_at = now() - interval '1 second', added_at = $1", added)


@pytest.fixture
async def relay(pool: Pool, streams_url: str) -> AsyncIterator[OutboxRelay]:
    publisher = Publisher(streams_url, shards=SHARDS, name="test")
    yield OutboxRelay(pool, publisher, dedup_window_ms=120_000)
    await publisher.close()


@pytest.fixture
def orders(pool: Pool, relay: OutboxRelay) -> WorkOrders:
    return WorkOrders(
        pool,
        post=relay.post,
        retention_days=30,
        now_ms=lambda: int(datetime.now(UTC).timestamp() * 1000),
    )


# --- the outbox ----------------------------------------------------------------------------------------


async def test_messages_of_a_gateway_that_died_after_its_commit_are_published_once_by_keepers(
    streams_url: str, database_url: str, pool: Pool, connection: Connection, start_keeper: StartKeeper
) -> None:
    boss, worker = await agent(pool), await agent(pool)
    made = await make(pool, boss, worker)  # committed; nobody publishes
    overdue = await make(pool, boss, worker)
    await overdue_at(pool, overdue.view.work_order_id)
    assert (await outbox.depth(pool))[0] == 2
    for _ in range(2):
        start_keeper(streams_url, database_url)

    async def empty() -> bool:
        found = await work_orders.find(pool, overdue.view.work_order_id)
        assert found is not None
        return found.view.status == "expired" and await outbox.depth(pool) == (0, 0.0)

    await until(empty, "an empty outbox, and the overdue order expired")
    came = await ingress(connection)
    ids = [message["id"] for message in came]
    assert len(ids) == len(set(ids)) == 4
    assert {made.envelopes[0].id, overdue.envelopes[0].id} < set(ids)
    assert heard([m for m in came if m["message_type"] == "work_order_update"]) == sorted(
        [(boss, "work_order_update", "expired"), (worker, "work_order_update", "expired")]
    )


async def test_a_row_is_left_to_whoever_committed_it_for_a_moment(pool: Pool, relay: OutboxRelay) -> None:
    await make(pool, await agent(pool), await agent(pool))
    assert await relay.relay() == 0
    await make_due(pool)
    assert await relay.relay() == 1


async def test_an_old_row_is_published_only_if_its_message_was_not_recorded(
    pool: Pool, relay: OutboxRelay, connection: Connection
) -> None:
    boss, worker = await agent(pool), await agent(pool)
    known = (await make(pool, boss, worker)).envelopes[0]
    unknown = (await make(pool, boss, worker)).envelopes[0]
    await pool.execute(
        "INSERT INTO agent_messages (id, created_at, priority, status, message_type, content, metadata)"
        " VALUES ($1, $2, 5, 'pending', 'work_order', '{}', '{}')",
        known.id,
        known.created_at,
    )
    await make_due(pool, age=HOUR)
    assert await relay.relay() == 2
    assert [message["id"] for message in await ingress(connection)] == [unknown.id]
    assert await outbox.depth(pool) == (0, 0.0)


async def test_two_relays_share_the_rows_and_neither_waits(pool: Pool) -> None:
    async with pool.transaction() as connection:
        await outbox.add(connection, *(Envelope(id=new_id()) for _ in range(100)))
    await make_due(pool)
    async with pool.transaction() as connection:  # claims, and has not committed yet
        first = {str(row["id"]) for row in await connection.fetch(load("outbox_claim"), 40, 60_000)}
        second = {one.envelope.id for one in await outbox.claim(pool, 100, for_ms=60_000)}
    assert (len(first), len(second), first & second) == (40, 60, set())
    assert await outbox.claim(pool, 100, for_ms=60_000) == []


async def test_what_redis_does_not_take_stays(pool: Pool) -> None:
    await make(pool, await agent(pool), await agent(pool))
    await make_due(pool)
    publisher = Publisher("redis://127.0.0.1:1/0", shards=SHARDS, name="test")
    relay = OutboxRelay(pool, publisher, dedup_window_ms=120_000)
    with pytest.raises(StreamsUnavailable):
        await relay.relay()
    await relay.post([one.envelope for one in await outbox.claim(pool, 10, for_ms=0)])
    await publisher.close()
    assert (await outbox.depth(pool))[0] == 1


async def test_a_transaction_undone_leaves_no_message(pool: Pool) -> None:
    boss, worker = await agent(pool), await agent(pool)
    made = await make(pool, boss, worker)
    await outbox.remove(pool, [one.id for one in made.envelopes])
    again = await make(pool, boss, worker, id=made.view.work_order_id, title="another")
    assert (again.envelopes, again.view.title) == ([], "t")
    with pytest.raises(DataFault):
        await make(pool, boss, worker, requirements='{"x": "\\u0000"}')
    assert await outbox.depth(pool) == (0, 0.0)


# --- deadlines -----------------------------------------------------------------------------------------


async def test_overdue_orders_expire_once_and_everybody_concerned_is_told(
    pool: Pool, orders: WorkOrders, connection: Connection
) -> None:
    boss, worker = await agent(pool), await agent(pool)
    first, second = [await agent(pool, capabilities=("dig",)) for _ in range(2)]
    pending = (await make(pool, boss, worker)).view.work_order_id
    accepted = (await make(pool, boss, worker)).view.work_order_id
    opened = (await make(pool, boss)).view.work_order_id
    later = (await make(pool, boss, worker, deadline_at=datetime.now(UTC) + HOUR)).view.work_order_id
    await do(pool, accepted, Action.ACCEPT, worker)
    for order_id in (pending, accepted, opened):
        await overdue_at(pool, order_id)
    assert sum(await asyncio.gather(orders.expire(), orders.expire())) == 3
    assert await orders.expire() == 0
    assert heard(await ingress(connection)) == sorted(
        [(who, "work_order_update", "expired") for who in (boss, boss, boss, worker, worker, first, second)]
    )
    history = await work_orders.history(pool, accepted)
    assert [(event.action, event.by, event.actor) for event in history[-1:]] == [("expire", "broker", None)]
    found = await work_orders.find(pool, later)
    assert found is not None
    assert found.view.status == "pending"


# --- offers --------------------------------------------------------------------------------------------


async def offers_due(pool: Pool) -> None:
    await pool.execute(
        "UPDATE work_orders SET offer_at = now() - interval '1 second' WHERE offer_at IS NOT NULL"
    )


async def test_agents_that_come_later_are_offered_what_is_free_and_nobody_twice(
    pool: Pool, orders: WorkOrders, connection: Connection
) -> None:
    boss = await agent(pool)
    made = await make(pool, boss)
    assert made.envelopes == []
    early = await agent(pool, capabilities=("dig",))
    await agent(pool, capabilities=("fill",))
    assert await orders.offer() == 0  # nobody was there a moment ago
    await offers_due(pool)
    assert await orders.offer() == 1
    assert await orders.offer() == 0  # not yet again
    await offers_due(pool)
    late = await agent(pool, capabilities=("dig", "fill"))
    assert await orders.offer() == 1
    await offers_due(pool)
    assert await orders.offer() == 1
    assert heard(await ingress(connection)) == sorted(
        [(early, "work_order", "pending"), (late, "work_order", "pending")]
    )
    history = await work_orders.history(pool, made.view.work_order_id)
    assert [json.loads(bytes(event.detail)) for event in history[1:]] == [
        {"agents": [early]},
        {"agents": [late]},
    ]


async def test_a_lapsed_open_order_is_offered_again_to_all_but_those_that_declined(
    pool: Pool, orders: WorkOrders, connection: Connection
) -> None:
    boss = await agent(pool)
    taker, declined, third = [await agent(pool, capabilities=("dig",)) for _ in range(3)]
    order_id = (await make(pool, boss)).view.work_order_id
    await do(pool, order_id, Action.REJECT, declined)
    old = await do(pool, order_id, Action.ACCEPT, taker, lease_ms=60_000)
    await offers_due(pool)
    await orders.offer()
    assert await ingress(connection) == []  # its lease is alive
    await pool.execute("UPDATE work_orders SET lease_until = now(), offer_at = now() WHERE id = $1", order_id)
    assert await orders.offer() == 1
    assert heard(await ingress(connection)) == sorted(
        [(taker, "work_order", "accepted"), (third, "work_order", "accepted")]
    )
    taken = await do(pool, order_id, Action.ACCEPT, third)
    assert taken.lease is not None
    assert taken.lease.startswith("2.")
    assert {one.to_agent_id for one in taken.envelopes} == {boss, taker}
    with pytest.raises(LeaseLost):
        await do(pool, order_id, Action.COMPLETE, taker, token=old.lease)


async def test_orders_of_agents_that_left_end(pool: Pool, orders: WorkOrders) -> None:
    boss, worker, gone = await agent(pool), await agent(pool), await agent(pool)
    kept = (await make(pool, boss, worker)).view.work_order_id
    ended = [
        (await make(pool, gone, worker)).view.work_order_id,
        (await make(pool, boss, gone)).view.work_order_id,
    ]
    await pool.execute("UPDATE agents SET deleted_at = now() WHERE id = $1", gone)
    assert await orders.end_orphans() == 2
    statuses = {}
    for order_id in (kept, *ended):
        found = await work_orders.find(pool, order_id)
        assert found is not None
        statuses[order_id] = found.view.status
    assert statuses == {kept: "pending"} | dict.fromkeys(ended, "cancelled")


# --- history and retention -----------------------------------------------------------------------------


async def test_a_history_can_neither_be_rewritten_nor_shortened(pool: Pool) -> None:
    order_id = (await make(pool, await agent(pool), await agent(pool))).view.work_order_id
    for statement in (
        "UPDATE work_order_events SET action = 'nothing'",
        "DELETE FROM work_order_events",
        "TRUNCATE work_order_events",
        "TRUNCATE work_orders CASCADE",
        "DELETE FROM work_orders",
    ):
        with pytest.raises(DataFault):
            await pool.execute(statement)
        assert len(await work_orders.history(pool, order_id)) == 1


async def test_what_ended_before_the_retention_goes_with_its_history_and_nothing_else(
    pool: Pool, orders: WorkOrders
) -> None:
    boss, worker = await agent(pool), await agent(pool, capabilities=("dig",))
    old, recent, living = [(await make(pool, boss)).view.work_order_id for _ in range(3)]
    for order_id in (old, recent):
        await do(pool, order_id, Action.CANCEL, boss)
    await pool.execute("UPDATE work_orders SET finished_at = now() - interval '31 days' WHERE id = $1", old)
    await pool.execute("UPDATE work_orders SET created_at = now() - interval '99 days' WHERE id = $1", living)
    assert await orders.forget() == 1
    assert await work_orders.find(pool, old) is None
    assert await work_orders.history(pool, old) == []
    for order_id in (recent, living):
        assert await work_orders.find(pool, order_id) is not None
    assert worker


async def test_a_history_is_bounded_but_never_misses_a_change_of_status(
    pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(log, "WORK_ORDER_EVENTS_MAX", 3)
    boss, worker = await agent(pool), await agent(pool)
    order_id = (await make(pool, boss, worker)).view.work_order_id
    await do(pool, order_id, Action.ACCEPT, worker)
    for _ in range(4):
        assert (await do(pool, order_id, Action.PROGRESS, worker)).envelopes
        with pytest.raises(LeaseLost):
            await do(pool, order_id, Action.PROGRESS, worker, token="1.other")
    await do(pool, order_id, Action.COMPLETE, worker)
    history = await work_orders.history(pool, order_id)
    assert [event.action for event in history] == ["create", "accept", "progress", "complete"]


async def test_active_jobs_are_those_accepted_and_not_finished(pool: Pool) -> None:
    boss, worker = await agent(pool), await agent(pool)
    first, second, _ = [(await make(pool, boss, worker)).view.work_order_id for _ in range(3)]
    assert await work_orders.active_jobs(pool, worker) == 0
    await do(pool, first, Action.ACCEPT, worker)
    await do(pool, second, Action.ACCEPT, worker)
    assert await work_orders.active_jobs(pool, worker) == 2
    await do(pool, first, Action.FAIL, worker)
    assert await work_orders.active_jobs(pool, worker) == 1
