"""Waiting for a rung: what a sender knows when the reply comes, looked up in Postgres directly."""

import httpx
import pytest
from receivers import Answer, Gate, Received
from scene import Scene

from schema.ids import new_id

pytestmark = pytest.mark.e2e

PATIENT = 60_000


async def post(scene: Scene, to: str, **query: object) -> httpx.Response:
    """Send as any HTTP client would."""
    place, message_id = scene.place, new_id()
    scene.ledger.attempted.add(message_id)
    async with httpx.AsyncClient(base_url=place.api_url, timeout=90, trust_env=False) as http:
        reply = await http.post(
            "/api/messages",
            params={name: str(value) for name, value in query.items()},
            json={"id": message_id, "to_agent_id": to, "content": {"n": 1}},
            headers={"Authorization": f"Bearer {place.api_key}"},
        )
    scene.ledger.acknowledge([message_id])
    assert reply.json()["id"] == message_id
    return reply


async def status_of(scene: Scene, message_id: str) -> str | None:
    rows = await scene.fetch("SELECT status FROM agent_messages WHERE id = $1", message_id)
    return rows[0]["status"] if rows else None


async def test_accepted_does_not_wait_for_the_record(calm: Scene) -> None:
    agent = await calm.agent("recipient")
    reply = await post(calm, agent.id, wait="accepted")
    assert (reply.status_code, reply.json()["status"]) == (202, "pending")
    await calm.balance()


async def test_recorded_is_the_default_and_is_on_record(calm: Scene) -> None:
    gate = Gate()
    agent = await calm.agent("recipient", gate)
    reply = await post(calm, agent.id, timeout_ms=PATIENT)
    assert reply.status_code == 201
    assert await status_of(calm, reply.json()["id"]) == "pending"
    assert (await calm.client.message(reply.json()["id"])).status == "pending"
    gate.open()
    await calm.balance()


async def test_delivered_comes_after_the_receiver_has_it(calm: Scene) -> None:
    agent = await calm.agent("recipient")
    reply = await post(calm, agent.id, wait="delivered", timeout_ms=PATIENT)
    assert (reply.status_code, reply.json()["status"]) == (201, "delivered")
    assert reply.json()["id"] in calm.ledger.received
    assert await status_of(calm, reply.json()["id"]) == "delivered"
    await calm.balance()


async def test_processed_brings_the_result_of_the_reply(calm: Scene) -> None:
    done = Answer(body={"status": "processed", "result": {"sum": 3}})
    agent = await calm.agent("recipient", lambda _: done)
    reply = await post(calm, agent.id, wait="processed", timeout_ms=PATIENT)
    assert (reply.json()["status"], reply.json()["result"]) == ("processed", {"sum": 3})
    assert await status_of(calm, reply.json()["id"]) == "processed"
    await calm.balance()


async def test_processed_brings_what_the_agent_says_later(calm: Scene) -> None:
    """The agent says so while its own reply is still open: the status must survive the settling after it."""

    async def work(request: Received) -> Answer:
        await calm.client.processed(request.id, {"by": "PUT"})
        return Answer()

    agent = await calm.agent("recipient", work)
    reply = await post(calm, agent.id, wait="processed", timeout_ms=PATIENT)
    assert (reply.json()["status"], reply.json()["result"]) == ("processed", {"by": "PUT"})
    await calm.balance()
    assert await status_of(calm, reply.json()["id"]) == "processed"
    assert len(await calm.client.attempts(reply.json()["id"])) == 1


async def test_a_failed_message_ends_the_wait(calm: Scene) -> None:
    agent = await calm.agent("recipient", lambda _: Answer(410))
    reply = await post(calm, agent.id, wait="processed", timeout_ms=PATIENT)
    assert (reply.json()["status"], reply.json()["status_reason"]) == ("failed", "gone")
    await calm.balance()


async def test_running_out_of_time_is_no_error(calm: Scene) -> None:
    gate = Gate()
    agent = await calm.agent("recipient", gate)
    reply = await post(calm, agent.id, wait="delivered", timeout_ms=300)
    assert (reply.status_code, reply.json()["status"]) == (201, "pending")
    gate.open()
    await calm.balance()
