"""Dead letters with everything running: replayed by an operator, delivered once, on record as one message."""

import asyncio
from typing import Any

import httpx
import pytest
from receivers import Answer, Received
from scene import Scene, eventually

pytestmark = pytest.mark.e2e


class Failing:
    """An endpoint that refuses until it is mended."""

    def __init__(self) -> None:
        self.mended = False

    def __call__(self, _: Received) -> Answer:
        return Answer() if self.mended else Answer(422)


def operator(scene: Scene) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {scene.place.api_key}"}
    return httpx.AsyncClient(base_url=scene.place.api_url, headers=headers, timeout=30, trust_env=False)


async def replay(http: httpx.AsyncClient, **body: Any) -> Any:
    reply = await http.post("/api/dead-letters/replay", json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


async def ended(scene: Scene, message_id: str, status: str) -> None:
    async def has_ended() -> bool:
        rows = await scene.fetch("SELECT status FROM agent_messages WHERE id = $1", message_id)
        return [row["status"] for row in rows] == [status]

    await eventually(has_ended, what=f"{status} {message_id}")


async def balance(scene: Scene) -> None:
    """Nothing lost, stuck or made up. Each round counts its attempts from 1, which the ledger takes amiss."""
    await scene.drain()
    account = await scene.ledger.account(scene.place.database_url)
    assert account.faults().keys() <= {"misnumbered"}, account.faults()


async def test_a_replayed_message_is_delivered_once_however_often_it_is_asked_for(calm: Scene) -> None:
    endpoint = Failing()
    agent = await calm.agent("mended", endpoint)
    named = await calm.send(agent.id)
    await ended(calm, named, "failed")
    before = len(calm.ledger.received[named])
    endpoint.mended = True
    async with operator(calm) as http:
        told = await asyncio.gather(*(replay(http, ids=[named]) for _ in range(3)))
    assert sum(one["replayed"] for one in told) == 1
    await ended(calm, named, "delivered")
    assert len(calm.ledger.received[named]) == before + 1
    attempts = await calm.client.attempts(named)
    assert [(one.round, one.status) for one in attempts] == [*[(0, "failed")] * before, (1, "success")]
    await balance(calm)


async def test_it_may_fail_and_be_replayed_again(calm: Scene) -> None:
    endpoint = Failing()
    agent = await calm.agent("failing", endpoint)
    message_id = await calm.send(agent.id)
    async with operator(calm) as http:
        for round in (1, 2):
            await ended(calm, message_id, "failed")
            assert (await replay(http, agent_id=agent.id, reason="rejected"))["replayed"] == 1

            async def tried(round: int = round) -> bool:
                attempts = await calm.client.attempts(message_id)
                return max(one.round for one in attempts) == round

            await eventually(tried, what=f"round {round}")
        await ended(calm, message_id, "failed")
        endpoint.mended = True
        await replay(http, ids=[message_id])
    await ended(calm, message_id, "delivered")
    await balance(calm)


async def test_an_expired_message_does_not_expire_again(calm: Scene) -> None:
    other = await calm.agent("other")
    skill = calm.named("rare")
    message_id = await calm.send(requirements=[skill], expires_at="2020-01-01T00:00:00Z")
    await ended(calm, message_id, "expired")
    able = await calm.agent("able", capabilities=[skill])
    async with operator(calm) as http:
        assert (await replay(http, ids=[message_id]))["replayed"] == 1
    await ended(calm, message_id, "delivered")
    (received,) = calm.ledger.received[message_id]
    assert received.agent == able.name != other.name
    assert received.message["expires_at"] is None
    await balance(calm)


async def test_what_capabilities_chose_is_chosen_anew(calm: Scene) -> None:
    skill = calm.named("shared")
    broken = Failing()
    first = await calm.agent("broken", broken, capabilities=[skill])
    message_id = await calm.send(requirements=[skill])
    await ended(calm, message_id, "failed")
    second = await calm.agent("whole", capabilities=[skill])
    async with operator(calm) as http:
        paused = await http.patch(f"/api/agents/{first.id}", json={"status": "paused"})
        assert paused.status_code == 200, paused.text

        async def delivered() -> bool:
            # Once more while the router has not heard of the pause: each time it is chosen anew.
            await replay(http, ids=[message_id])
            return (await calm.client.message(message_id)).status == "delivered"

        await eventually(delivered, what="delivery to the other one")
    assert calm.ledger.received[message_id][-1].agent == second.name
    await balance(calm)
