"""Questions and answers on a whole broker: whichever way the recipient answers, who waits has it."""

import asyncio
from typing import Any

import httpx
import pytest
from receivers import Answer, Received
from scene import Scene

from broker.client.http import AgentClient
from schema.agent import RegisteredAgent
from schema.ids import new_id

pytestmark = pytest.mark.e2e

PATIENT_MS = 30_000


async def ask(scene: Scene, to: RegisteredAgent, sender: RegisteredAgent | None) -> dict[str, Any]:
    """Send a question and wait for the reply; return the message."""
    place, message_id = scene.place, new_id()
    scene.ledger.attempted.add(message_id)
    body = {"id": message_id, "to_agent_id": to.id, "content": {"q": 1}, "conversation_id": "c"}
    if sender is not None:
        body["from_agent_id"] = sender.id
    async with httpx.AsyncClient(base_url=place.api_url, timeout=90, trust_env=False) as http:
        reply = await http.post(
            "/api/messages",
            params={"wait": "reply", "timeout_ms": PATIENT_MS},
            json=body,
            headers={"Authorization": f"Bearer {place.api_key}"},
        )
    assert reply.status_code == 201, reply.text
    message: dict[str, Any] = reply.json()
    scene.ledger.acknowledge([message_id])
    if message["reply"] is not None:
        scene.ledger.attempted.add(message["reply"]["id"])
        scene.ledger.acknowledge([message["reply"]["id"]])
    return message


@pytest.mark.parametrize("said", [{}, {"status": "processed", "result": {"r": 2}}], ids=["taken", "done"])
async def test_a_reply_in_the_answer_to_a_push_comes_back(calm: Scene, said: dict[str, Any]) -> None:
    asking = await calm.agent("asking", None)
    answering = await calm.agent("answering", lambda _: Answer(body={"reply": {"n": 42}, **said}))
    message = await ask(calm, answering, asking)
    reply = message["reply"]
    assert (reply["content"], reply["reply_to"]) == ({"n": 42}, message["id"])
    assert (reply["status"], reply["conversation_id"]) == ("delivered", "c")
    # Nothing of it is left for its recipient: neither on record nor in the mailbox.
    await calm.drain()
    assert (await calm.client.message(reply["id"])).status == "delivered"


async def test_a_reply_sent_by_itself_comes_back_while_the_push_is_still_open(calm: Scene) -> None:
    asking = await calm.agent("asking", None)
    ids: list[str] = []

    async def answer(request: Received) -> Answer:
        ids.append(await calm.send(asking.id, from_agent_id=answering.id, reply_to=request.id))
        return Answer()

    answering = await calm.agent("answering", answer)
    message = await ask(calm, answering, asking)
    assert ([message["reply"]["id"]], message["reply"]["conversation_id"]) == (ids, "c")
    await calm.drain()


async def test_an_agent_that_pulls_answers_and_the_sender_has_it_once(calm: Scene) -> None:
    asking, answering = await calm.agent("asking", None), await calm.agent("answering", None)
    asked = asyncio.create_task(ask(calm, answering, asking))
    place = calm.place
    async with httpx.AsyncClient(
        base_url=place.api_url,
        timeout=90,
        trust_env=False,
        headers={"Authorization": f"Bearer {answering.api_key}"},
    ) as own:
        inbox = await own.get("/api/v1/messaging/inbox", params={"wait_ms": PATIENT_MS})
        (question,) = inbox.json()["messages"]
        assert question["from_agent"] == {"id": asking.id, "name": asking.name}
        async with AgentClient(place.api_url, answering.api_key) as client:
            await client.send({"n": 42}, to=asking.id, reply_to=question["message_id"])
        read = await own.post(f"/api/v1/messaging/mark-read/{question['message_id']}")
        assert read.json()["success"] is True
    message = await asyncio.wait_for(asked, 60)
    assert message["reply"]["content"] == {"n": 42}
    await calm.drain()


async def test_a_reply_to_nobody_in_particular_is_the_result(calm: Scene) -> None:
    answering = await calm.agent("answering", lambda _: Answer(body={"reply": {"n": 42}}))
    message = await ask(calm, answering, None)
    assert (message["reply"], message["result"], message["status"]) == (None, {"n": 42}, "delivered")
    await calm.drain()
