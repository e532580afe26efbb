"""What native publishers may get wrong: set aside with its bytes and a reason, and the stream goes on."""

import msgspec
import pytest
from scene import Scene, eventually

from broker.client.streams import message
from broker.streams.keys import Keys
from schema.codec import encode
from schema.ids import new_id, shard_of
from schema.message import LANES, Lane

pytestmark = pytest.mark.e2e


def entries(recipient: str) -> list[tuple[bytes, str]]:
    """Raw bytes of field `m` and the reason they are set aside for."""

    def fields(**more: object) -> bytes:
        return msgspec.json.encode({"id": new_id(), "to_agent_id": recipient, "content": {}} | more)

    return [
        (b"not json", "malformed"),
        (b"\xff\xfe\x00", "malformed"),
        (b"[1, 2]", "malformed"),
        (b"{}", "malformed"),
        (msgspec.json.encode({"to_agent_id": recipient, "content": {}}), "malformed"),
        (fields(id="not-a-uuid"), "malformed"),
        (fields(priority=11), "malformed"),
        (fields(content="text"), "malformed"),
        (fields(content={"text": "a\x00b"}), "malformed"),
        (fields(message_type="x" * 65), "malformed"),
        (fields(to_agent_id=None), "malformed"),
        (fields()[:-1], "malformed"),
        (fields(to_agent_id=new_id()), "unknown_recipient"),
        (fields(to_agent_id="nobody-by-this-name"), "unknown_recipient"),
        (fields(from_agent_id="nobody-by-this-name"), "unknown_sender"),
    ]


async def test_malformed_entries_are_set_aside_and_the_stream_goes_on(calm: Scene) -> None:
    agent = await calm.agent("recipient")
    shards = int(await calm.redis.hget("ab:deployment", "shards"))
    ingress = Keys(shard_of(agent.id, shards)).ingress
    wrong = entries(agent.id)
    placed: dict[tuple[str, str], tuple[bytes, str]] = {}
    for number, (raw, reason) in enumerate(wrong):
        stream = ingress[LANES[number % 3]]
        placed[stream, (await calm.redis.xadd(stream, {"m": raw})).decode()] = (raw, reason)
    no_message = (await calm.redis.xadd(ingress[Lane.HIGH], {"x": "y"})).decode()
    placed[ingress[Lane.HIGH], no_message] = (b"", "malformed")
    good = [await calm.send(agent.id, priority=priority) for priority in (1, 5, 10)]
    good += await calm.publish(*(message({}, to=agent.id, priority=priority) for priority in (1, 5, 10)))

    async def set_aside() -> bool:
        rows = await calm.fetch("SELECT * FROM quarantine")
        kept = {(row["stream"], row["entry"]): (bytes(row["raw"]), row["reason"]) for row in rows}
        return placed.items() <= kept.items()

    await eventually(set_aside, what="all of them in quarantine, with their bytes and reasons")
    calm.ledger.attempted.update(_ids_of(raw for raw, reason in wrong if reason != "malformed"))
    await calm.balance()
    assert calm.ledger.received.keys() == set(good)


async def test_a_message_to_nobody_beside_one_to_a_puller_goes_on_record(calm: Scene) -> None:
    """Both in one entry, so that they are moved together: one has two events, one a mailbox entry."""
    puller = await calm.agent("puller", None)
    shards = int(await calm.redis.hget("ab:deployment", "shards"))
    stream = Keys(shard_of(puller.id, shards)).ingress[Lane.NORMAL]
    lost, found = message({}, to=new_id()), message({}, to=puller.id)
    calm.ledger.attempted.update((lost.id, found.id))
    await calm.redis.execute_command("XADD", stream, "*", "m", encode(lost), "m", encode(found))
    calm.ledger.acknowledge((lost.id, found.id))

    async def recorded() -> bool:
        return (
            len(await calm.fetch("SELECT FROM agent_messages WHERE id = ANY($1)", [lost.id, found.id])) == 2
        )

    await eventually(recorded, what="both on record")
    await calm.client.processed(found.id)
    await calm.balance()
    assert (await calm.client.message(lost.id)).status_reason == "unknown_recipient"


async def test_a_readable_message_to_nobody_is_on_record_as_failed(calm: Scene) -> None:
    (message_id,) = await calm.publish(message({"n": 1}, to=new_id()))
    await calm.balance()
    shown = await calm.client.message(message_id)
    assert (shown.status, shown.status_reason) == ("failed", "unknown_recipient")


def _ids_of(raws: object) -> list[str]:
    return [msgspec.json.decode(raw)["id"] for raw in raws]
