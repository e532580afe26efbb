"""Endpoints that fail, in each way: which attempts go on record, and how the message ends."""

from datetime import UTC, datetime, timedelta

import pytest
from receivers import DROP, Answer, Gate, in_turn
from scene import Scene

from broker.client.http import Message
from schema.delivery import AttemptView

pytestmark = pytest.mark.e2e


async def ended(scene: Scene, message_id: str) -> tuple[Message, list[AttemptView]]:
    """Drain, and return the message and its attempts as the gateway shows them."""
    await scene.balance()
    return await scene.client.message(message_id), await scene.client.attempts(message_id)


async def test_a_flaky_endpoint_is_tried_until_it_answers(calm: Scene) -> None:
    agent = await calm.agent("flaky", in_turn(500, DROP, Answer(429, {"Retry-After": "1"}), 503, 204))
    message, attempts = await ended(calm, await calm.send(agent.id))
    assert [(a.attempt, a.status, a.response_code) for a in attempts] == [
        (1, "failed", 500),
        (2, "failed", None),
        (3, "failed", 429),
        (4, "failed", 503),
        (5, "success", 204),
    ]
    assert attempts[1].error is not None
    assert attempts[1].error.startswith("reset")
    assert (message.status, message.retry_count, message.status_reason) == ("delivered", 4, None)
    receipts = calm.ledger.received[message.id]
    assert [receipt.attempt for receipt in receipts] == [1, 2, 3, 4, 5]
    assert len({receipt.body for receipt in receipts}) == 1
    # What the endpoint asked for is never shrunk, and a retry is never early.
    assert attempts[3].attempted_at - attempts[2].attempted_at >= timedelta(seconds=1)


async def test_an_answer_that_takes_too_long_is_a_timeout(calm: Scene) -> None:
    gate = Gate()
    agent = await calm.agent("slow", gate)
    metadata = {"timeout": 1, "max_retries": 1}
    message, attempts = await ended(calm, await calm.send(agent.id, metadata=metadata))
    assert [(a.attempt, a.status, a.response_code) for a in attempts] == [
        (1, "timeout", None),
        (2, "timeout", None),
    ]
    assert (message.status, message.status_reason) == ("failed", "exhausted")


@pytest.mark.parametrize(
    ("code", "metadata", "reason", "tries"),
    [
        (500, {"max_retries": 2}, "exhausted", 3),
        (500, {"max_retries": 0}, "exhausted", 1),
        (503, {"retry_policy": "none"}, "exhausted", 1),
        (500, {}, "exhausted", 6),
        (404, {}, "rejected", 3),
        (404, {"max_retries": 1}, "rejected", 2),
        (410, {}, "gone", 1),
        (302, {"max_retries": 1}, "exhausted", 2),
    ],
)
async def test_a_message_nobody_takes_fails_with_its_reason(
    code: int, metadata: dict[str, object], reason: str, tries: int, calm: Scene
) -> None:
    agent = await calm.agent("unwilling", in_turn(code))
    message, attempts = await ended(calm, await calm.send(agent.id, metadata=metadata))
    assert (message.status, message.status_reason) == ("failed", reason)
    assert [(a.attempt, a.status, a.response_code) for a in attempts] == [
        (number, "failed", code) for number in range(1, tries + 1)
    ]
    assert message.retry_count == tries


async def test_a_retry_that_would_come_after_the_expiry_ends_the_message(calm: Scene) -> None:
    agent = await calm.agent("busy", in_turn(Answer(503, {"Retry-After": "600"})))
    expires_at = datetime.now(UTC) + timedelta(seconds=300)
    message, attempts = await ended(calm, await calm.send(agent.id, expires_at=expires_at))
    assert (message.status, message.status_reason) == ("expired", "expired")
    assert len(attempts) == 1


async def test_a_failing_endpoint_does_not_hold_up_its_neighbours(calm: Scene) -> None:
    gate = Gate()
    stuck, well = await calm.agent("stuck", gate), await calm.agent("well")
    for _ in range(20):
        await calm.send(stuck.id)
    await calm.held(gate, at_least=4)
    passed = [await calm.send(well.id, wait="delivered", timeout_ms=60_000) for _ in range(10)]
    assert set(passed) <= calm.ledger.received.keys()
    assert len(gate.held) == 4
    gate.open()
    await calm.balance()
    assert calm.ledger.repeated == set()


async def test_what_waits_for_an_endpoint_that_was_away_is_delivered(calm: Scene) -> None:
    """Enough failures to open the breaker: messages wait without using attempts."""
    healed = False
    agent = await calm.agent("away", lambda _: Answer(200 if healed else 500))
    for _ in range(30):
        await calm.send(agent.id, metadata={"max_retries": 24})
    await calm.more_received(10)
    healed = True
    await calm.balance()
    (row,) = await calm.fetch("SELECT count(*) FROM agent_messages WHERE to_agent_id = $1", agent.id)
    assert row[0] == 30
    statuses = await calm.fetch("SELECT DISTINCT status FROM agent_messages WHERE to_agent_id = $1", agent.id)
    assert [row["status"] for row in statuses] == ["delivered"]
