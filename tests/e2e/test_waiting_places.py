"""Where messages wait: parked until somebody capable is there, scheduled, in a puller's mailbox, expired."""

import time
from datetime import UTC, datetime, timedelta

import pytest
from scene import Scene, eventually

from broker.client.streams import message
from broker.streams.keys import Keys
from schema.ids import shard_of
from schema.message import Lane

pytestmark = pytest.mark.e2e


async def test_parked_messages_reach_an_agent_that_registers_later(calm: Scene) -> None:
    skill = calm.named("rare")
    ids = [await calm.send(requirements=[skill], wait="recorded", timeout_ms=60_000) for _ in range(3)]
    ids += await calm.publish(*(message({}, requirements=[skill], priority=n) for n in (1, 5, 10)))

    async def parked() -> bool:
        rows = await calm.fetch("SELECT status, to_agent_id FROM agent_messages WHERE id = ANY($1)", ids)
        assert {tuple(row) for row in rows} <= {("pending", None)}
        return len(rows) == len(ids)

    await eventually(parked, what="all of them parked on record")
    late = await calm.agent("late", capabilities=[skill])
    await calm.balance()
    assert calm.ledger.received.keys() == set(ids)
    assert calm.ledger.repeated == set()
    shown = await calm.client.message(ids[0])
    assert (shown.status, shown.to_agent_id) == ("delivered", late.id)


async def test_a_parked_message_expires_where_nobody_comes(calm: Scene) -> None:
    expires_at = datetime.now(UTC) + timedelta(seconds=1)
    message_id = await calm.send(requirements=[calm.named("nobody-can")], expires_at=expires_at)
    await calm.balance()
    shown = await calm.client.message(message_id)
    assert (shown.status, shown.status_reason) == ("expired", "expired")


async def test_a_scheduled_message_does_not_come_before_its_time(calm: Scene) -> None:
    agent = await calm.agent("patient")
    due = datetime.now(UTC) + timedelta(seconds=2)
    later = await calm.send(agent.id, deliver_at=due)
    (native,) = await calm.publish(message({}, to=agent.id, deliver_at=due))
    at_once = await calm.send(agent.id)
    await calm.balance()
    assert calm.ledger.repeated == set()
    for message_id in (later, native):
        (receipt,) = calm.ledger.received[message_id]
        assert receipt.at >= due.timestamp()
    assert at_once in calm.ledger.received


async def test_a_puller_has_its_message_until_it_says_processed(calm: Scene) -> None:
    puller = await calm.agent("puller", None)
    message_id = await calm.send(puller.id, priority=1, wait="recorded", timeout_ms=60_000)
    shards = int(await calm.redis.hget("ab:deployment", "shards"))
    mailbox = Keys(shard_of(puller.id, shards)).mailbox(puller.id, Lane.HIGH)
    assert (await calm.client.message(message_id)).status == "pending"
    assert await calm.redis.xlen(mailbox) == 1
    done = await calm.client.processed(message_id, {"done": True})
    assert (done.status, done.result) == ("processed", {"done": True})
    assert await calm.redis.xlen(mailbox) == 0
    assert (await calm.client.processed(message_id, {"done": True})).status == "processed"
    await calm.balance()
    assert await calm.client.attempts(message_id) == []


async def test_what_a_puller_never_reads_expires(calm: Scene) -> None:
    puller = await calm.agent("sleeper", None)
    message_id = await calm.send(puller.id, expires_at=datetime.now(UTC) + timedelta(seconds=1))
    await calm.balance()
    shown = await calm.client.message(message_id)
    assert (shown.status, shown.status_reason) == ("expired", "expired")
    assert shown.expires_at is not None
    assert time.time() >= shown.expires_at.timestamp()
