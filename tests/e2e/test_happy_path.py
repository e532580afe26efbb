"""Messages by every door, by name and by capability: each delivered once, each on record as it was sent."""

import msgspec
import pytest
from receivers import Answer
from scene import Scene, spread

from broker.client.streams import message

pytestmark = pytest.mark.e2e


async def test_every_door_delivers_each_message_once(calm: Scene) -> None:
    named = [await calm.agent(f"named-{number}") for number in range(3)]
    skill = calm.named("skill")
    able = [await calm.agent(f"able-{number}", capabilities=[skill]) for number in range(3)]
    ids = [await calm.send(spread(named, number), priority=number % 10 + 1) for number in range(20)]
    ids += await calm.publish(
        *(message({"n": n}, to=spread(named, n), priority=n % 10 + 1) for n in range(60)),
        *(message({"n": n}, to=named[n % 3].name) for n in range(9)),
    )
    by_skill = await calm.publish(*(message({"n": n}, requirements=[skill]) for n in range(30)))
    by_skill += [await calm.send(requirements=[skill]) for _ in range(10)]
    batch = await calm.client.send_batch(
        [{"to_agent_id": spread(named, n), "content": {"n": n}} for n in range(50)]
        + [{"content": {"task_type": "t", "requirements": [skill]}}, {"to_agent_id": "nobody"}]
    )
    assert batch[-1].error is not None
    assert batch[-1].error.code == "unknown_recipient"
    batched = [result.id for result in batch[:-1] if result.id is not None]
    assert len(batched) == 51
    calm.ledger.attempted.update(batched)
    calm.ledger.acknowledge(batched)
    await calm.balance()
    assert calm.ledger.repeated == set()
    assert calm.ledger.received.keys() == {*ids, *by_skill, *batched}
    able_names = {agent.name for agent in able}
    assert {calm.ledger.received[message_id][0].agent for message_id in by_skill} <= able_names
    route = await calm.client.route(by_skill[0])
    assert route["route"] is not None


async def test_what_is_shown_is_what_was_sent_and_received(calm: Scene) -> None:
    sender = await calm.agent("sender")
    recipient = await calm.agent("recipient")
    message_id = await calm.send(
        recipient.name,
        content={"deep": {"list": [1, "zwei", None, 3.5]}, "text": 'Ümläut \U0001f600 "quoted"'},
        metadata={"note": "kept"},
        from_agent_id=sender.id,
        conversation_id="talk",
        message_type="question",
        priority=2,
    )
    await calm.balance()
    (received,) = calm.ledger.received[message_id]
    shown = await calm.client.message(message_id)
    for name in ("content", "metadata", "conversation_id", "message_type", "priority"):
        assert received.message[name] == getattr(shown, name), name
    assert received.message["from_agent_id"] == shown.from_agent_id == sender.id
    assert received.message["to_agent_id"] == shown.to_agent_id == recipient.id
    assert received.message["id"] == received.id == shown.id
    assert shown.status == "delivered"
    assert shown.delivered_at is not None
    assert shown.retry_count == 0
    assert msgspec.convert(received.message["created_at"], type(shown.created_at)) == shown.created_at
    (attempt,) = await calm.client.attempts(message_id)
    (row,) = await calm.fetch("SELECT * FROM message_delivery_log WHERE message_id = $1", message_id)
    assert (attempt.attempt, attempt.status, attempt.response_code) == (1, "success", 200)
    assert (row["attempt"], row["status"], row["response_code"]) == (1, "success", 200)
    assert attempt.attempted_at == row["attempted_at"]
    inbox = [found.id async for found in calm.client.messages(to=recipient.name, status="delivered")]
    assert inbox == [message_id]


async def test_publishing_the_same_id_again_delivers_once(calm: Scene) -> None:
    agent = await calm.agent("once")
    envelope = message({"n": 1}, to=agent.id)
    for _ in range(3):
        await calm.publish(envelope)
    for _ in range(3):
        await calm.send(agent.id, id=envelope.id)
    # What comes after it in the same lane shows that the copies have been routed.
    await calm.send(agent.id)
    await calm.balance()
    assert len(calm.ledger.received[envelope.id]) == 1


async def test_an_agent_answers_in_the_body_of_its_reply(calm: Scene) -> None:
    asking = await calm.agent("asking")
    answering = await calm.agent("answering", lambda _: Answer(body={"reply": {"answer": 42}}))
    question = await calm.send(answering.id, from_agent_id=asking.id, conversation_id="c")
    await calm.drain()
    answers = [answer async for answer in calm.client.messages(to=asking.id, conversation_id="c")]
    assert [(answer.reply_to, answer.message_type, answer.content) for answer in answers] == [
        (question, "response", {"answer": 42})
    ]
    calm.ledger.attempted.add(answers[0].id)
    calm.ledger.acknowledge([answers[0].id])
    await calm.balance()
