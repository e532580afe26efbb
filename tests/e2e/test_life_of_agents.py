"""Agents that change and leave while messages are on their way: each one gets there, or back, once."""

from contextlib import suppress

import pytest
from receivers import Gate, ok
from scene import Scene, eventually

from schema.agent import RegisteredAgent
from schema.errors import RecipientDisabled, UnknownRecipient

pytestmark = pytest.mark.e2e

RETURNED = ("failed", "recipient_deleted")


async def test_a_puller_that_is_given_an_endpoint_is_pushed_what_waits_once(calm: Scene) -> None:
    agent = await calm.agent("puller", None)
    waiting = [await calm.send(agent.id, priority=priority, wait="recorded") for priority in (1, 5, 9)]
    url = calm.receivers.endpoint(agent.name, ok)
    await calm.client.agents.update(agent.id, endpoint=url)
    waiting.append(await calm.send(agent.id))
    await calm.balance()
    assert calm.ledger.received.keys() == set(waiting)
    assert calm.ledger.repeated == set()


async def test_what_waits_can_still_be_read_when_the_endpoint_is_taken_away(calm: Scene) -> None:
    gate = Gate()
    agent = await calm.agent("shy", gate)
    ids = [await calm.send(agent.id, wait="recorded", timeout_ms=100) for _ in range(8)]
    held = await calm.held(gate, at_least=1)
    await calm.client.agents.update(agent.id, endpoint=None)
    later = await calm.send(agent.id, wait="recorded")
    gate.open()

    async def posted_end() -> bool:
        return all([(await calm.client.message(one.id)).status == "delivered" for one in held])

    await eventually(posted_end, what="the end of what was being posted")
    for message_id in {*ids, later} - {one.id for one in held}:
        assert (await calm.client.message(message_id)).status == "pending"
        await calm.client.processed(message_id)
    await calm.balance()
    assert calm.ledger.repeated == set()


async def test_nothing_is_pushed_to_a_paused_agent_until_it_is_active_again(calm: Scene) -> None:
    agent, other = await calm.agent("resting"), await calm.agent("other")
    await calm.client.agents.update(agent.id, status="paused")
    waiting = [await calm.send(agent.id) for _ in range(5)]
    await calm.whole_again(other)
    assert not calm.ledger.received.keys() & set(waiting)
    await calm.client.agents.update(agent.id, status="active")
    await calm.balance()
    assert calm.ledger.received.keys() >= set(waiting)
    assert calm.ledger.repeated == set()


async def test_agents_are_deleted_under_load_and_every_message_ends_once(calm: Scene) -> None:
    """Fast ones, slow ones and pullers, by name and by capability; what cannot be delivered comes back."""
    sender = await calm.client.agents.register(calm.named("sender"))
    gate, skill = Gate(), calm.named("skill")
    stays = await calm.agent("stays", capabilities=[skill])
    leavers = [
        await calm.agent(f"{kind}{number}", script, **({"capabilities": [skill]} if script is ok else {}))
        for kind, script in (("fast", ok), ("slow", gate), ("puller", None))
        for number in range(3)
    ]

    async def send(to: str | None, **more: object) -> None:
        with suppress(UnknownRecipient):
            await calm.send(to, from_agent_id=sender.id, **more)

    def to_all(number: int, offset: int = 0) -> RegisteredAgent:
        return [*leavers, stays][(number + offset) % (len(leavers) + 1)]

    async with calm.load(
        lambda number: send(to_all(number).id, priority=1 + number % 10),
        lambda number: send(to_all(number, 5).name),
        lambda _: send(None, requirements=[skill]),
    ):
        await calm.more_received(50)
        for agent in leavers:
            departure = await calm.client.agents.delete(agent.id)
            assert departure.status == "deleted"
            await calm.more_received(5)
    gate.open()
    await calm.balance()
    ends = await calm.fetch(
        "SELECT status, status_reason, count(*) FROM agent_messages WHERE id = ANY($1) GROUP BY 1, 2",
        list(calm.ledger.acknowledged),
    )
    assert {(row["status"], row["status_reason"]) for row in ends} <= {
        ("delivered", None),
        RETURNED,
        ("failed", "unknown_recipient"),
    }
    returned = {
        str(row["id"])
        for row in await calm.fetch(
            "SELECT id FROM agent_messages WHERE id = ANY($1) AND status_reason = 'recipient_deleted'",
            list(calm.ledger.acknowledged),
        )
    }
    assert returned

    async def told() -> bool:
        rows = await calm.fetch(
            "SELECT content ->> 'message_id' AS about FROM agent_messages"
            " WHERE to_agent_id = $1 AND message_type = 'error'",
            sender.id,
        )
        about = [row["about"] for row in rows]
        assert len(set(about)) == len(about)
        return set(about) == returned

    await eventually(told, what="a note about each message that came back")
    await calm.client.agents.delete(sender.id)


async def test_a_drain_delivers_what_waits_and_then_the_agent_is_gone(calm: Scene) -> None:
    gate = Gate()
    agent = await calm.agent("finishing", gate)
    ids = [await calm.send(agent.id, wait="recorded", timeout_ms=100) for _ in range(8)]
    await calm.held(gate, at_least=1)
    departure = await calm.client.agents.delete(agent.id, mode="drain")
    assert departure.status == "draining"
    with pytest.raises(RecipientDisabled):
        await calm.client.send({}, to=agent.id)
    gate.open()

    async def gone() -> bool:
        rows = await calm.fetch("SELECT FROM agents WHERE id = $1 AND deleted_at IS NOT NULL", agent.id)
        return len(rows) == 1

    await eventually(gone, what="the end of the drain")
    await calm.balance()
    assert calm.ledger.received.keys() == set(ids)
    assert calm.ledger.repeated == set()
