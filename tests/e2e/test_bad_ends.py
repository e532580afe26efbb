"""Bad ends with everything running: senders are told once, and dead letters are sent again in bulk while the
processes that do it are killed."""

import asyncio
import signal
from contextlib import suppress
from typing import Any

import httpx
import pytest
from receivers import Answer, Received
from scene import Scene, eventually
from whole_broker import WholeBroker

pytestmark = pytest.mark.e2e


class Failing:
    """An endpoint that refuses until it is mended."""

    def __init__(self) -> None:
        self.mended = False

    def __call__(self, _: Received) -> Answer:
        return Answer() if self.mended else Answer(422)


def once(_: Received) -> Answer:
    return Answer(422)


async def told(scene: Scene, sender_id: str) -> list[tuple[str, str, int]]:
    """What a sender was told: message, reason, round."""
    rows = await scene.fetch(
        "SELECT content ->> 'message_id' AS about, content ->> 'reason' AS reason,"
        " content ->> 'round' AS round FROM agent_messages"
        " WHERE to_agent_id = $1 AND message_type = 'error' ORDER BY created_at, id",
        sender_id,
    )
    return [(row["about"], row["reason"], int(row["round"])) for row in rows]


async def test_every_bad_end_is_told_to_its_sender_once(calm: Scene) -> None:
    sender = await calm.agent("sender", None)
    refusing, puller = await calm.agent("refusing", once), await calm.agent("puller", None)
    refused = await calm.send(refusing.id, from_agent_id=sender.id, metadata={"max_retries": 0})
    expired = await calm.send(puller.id, from_agent_id=sender.id, expires_at="2020-01-01T00:00:00Z")
    given_up = await calm.send(puller.id, from_agent_id=sender.id, wait="recorded")
    await calm.client.failed(given_up, "cannot read this")
    cancelled = await calm.send(puller.id, from_agent_id=sender.id, wait="recorded")
    await calm.client.cancel(cancelled)
    expected = {(refused, "rejected", 0), (expired, "expired", 0), (given_up, "cannot read this", 0)}

    async def all_told() -> bool:
        return len(await told(calm, sender.id)) >= len(expected)

    await eventually(all_told, what="a note about each")
    for row in await calm.fetch("SELECT id FROM agent_messages WHERE to_agent_id = $1", sender.id):
        await calm.client.processed(str(row["id"]))
    await calm.drain()
    assert sorted(await told(calm, sender.id)) == sorted(expected)


async def test_a_bulk_replay_under_load_goes_on_over_kills_and_loses_and_doubles_nothing(
    broker: WholeBroker, scene: Scene
) -> None:
    """Hundreds of dead letters are replayed, call by call, while the gateway, the keeper and the recorder are
    killed in the middle of it, and others go on publishing."""
    endpoint = Failing()
    mended = await scene.agent("mended", endpoint)
    other = await scene.agent("other")
    dead = [await scene.send(mended.id, metadata={"max_retries": 0}) for _ in range(300)]
    await until_status(scene, dead, "failed")
    tried = {one: len(scene.ledger.received[one]) for one in dead}
    endpoint.mended = True
    async with scene.load(lambda _: scene.send(other.id)):
        replaying = asyncio.create_task(replay_all(scene, mended.id))
        for role in ("gateway", "keeper", "gateway", "recorder", "keeper"):
            with scene.ledger.broken():
                await asyncio.to_thread(broker.signal, role, signal.SIGKILL)
                await scene.whole_again(other)
        replayed = await replaying
        await until_status(scene, dead, "delivered")
    assert replayed <= len(dead)
    await scene.drain()
    account = await scene.ledger.account(scene.place.database_url)
    assert account.faults().keys() <= {"misnumbered"}, account.faults()
    # Once in its new round, whatever was killed: no worker was.
    assert {one: len(scene.ledger.received[one]) - tried[one] for one in dead} == dict.fromkeys(dead, 1)
    rounds = await scene.fetch("SELECT round FROM agent_messages WHERE id = ANY($1)", dead)
    assert {row["round"] for row in rounds} == {1}


async def replay_all(scene: Scene, agent_id: str) -> int:
    """Replay in bulk, in small calls; one that was cut off is made again, with the cursor it had."""
    replayed, cursor = 0, None
    headers = {"Authorization": f"Bearer {scene.place.api_key}"}
    async with httpx.AsyncClient(
        base_url=scene.place.api_url, headers=headers, timeout=30, trust_env=False
    ) as http:
        while True:
            body: dict[str, Any] = {"to_agent_id": agent_id, "limit": 10, "cursor": cursor}
            with suppress(httpx.TransportError):
                reply = await http.post("/api/dead-letters/replay", json=body)
                if reply.status_code == 200:
                    said = reply.json()
                    replayed += said["replayed"]
                    cursor = said["next_cursor"]
                    if not said["more"]:
                        return replayed
            await asyncio.sleep(0.05)  # so that the kills come in the middle


async def until_status(scene: Scene, ids: list[str], status: str) -> None:
    async def all_of_them() -> bool:
        rows = await scene.fetch(
            "SELECT count(*) AS n FROM agent_messages WHERE id = ANY($1) AND status = $2", ids, status
        )
        return bool(rows[0]["n"] == len(ids))

    await eventually(all_of_them, what=f"{len(ids)} messages {status}")
