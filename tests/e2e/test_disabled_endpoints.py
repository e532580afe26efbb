"""Endpoints that say they are gone, secrets that change: through the API, with everything running."""

import asyncio
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from receivers import Answer, Received, in_turn
from scene import Scene, eventually
from standardwebhooks import Webhook, WebhookVerificationError

from schema.agent import AgentView

pytestmark = pytest.mark.e2e


async def shown(scene: Scene, agent_id: str, status: str) -> AgentView:
    """Wait until the agent's endpoint is shown with this status; return the agent."""
    found: list[AgentView] = []

    async def is_shown() -> bool:
        found.append(await scene.client.agents.show(agent_id))
        return found[-1].endpoint_status == status

    await eventually(is_shown, what=f"an endpoint that is {status}")
    return found[-1]


async def test_an_endpoint_that_is_gone_is_disabled_its_queue_bounces_and_all_of_it_comes_when_it_is_back(
    calm: Scene,
) -> None:
    back = False
    agent = await calm.agent("gone", lambda _: Answer(200 if back else 410))
    ids = await asyncio.gather(*(calm.send(agent.id) for _ in range(30)))
    await calm.drain()
    view = await shown(calm, agent.id, "disabled")
    assert (view.endpoint_disabled_reason, view.status) == ("gone", "active")
    assert view.endpoint_disabled_at is not None
    rows = await calm.fetch(
        "SELECT DISTINCT status, status_reason FROM agent_messages WHERE id = ANY($1)", ids
    )
    assert [tuple(row) for row in rows] == [("failed", "gone")]
    asked = calm.receipts
    assert asked <= 4, "those under way when the first answer came"

    # Its owner is told, once, in the inbox.
    page = await calm.client.inbox.page(agent_id=agent.id)
    [note] = page.messages
    assert note.metadata == {"automatic": True}
    assert (note.type, note.content["event"], note.content["reason"]) == (
        "error",
        "endpoint_disabled",
        "gone",
    )

    # What comes now is refused with the reason and reaches nobody.
    late = await calm.send(agent.id)
    await calm.drain()
    assert (await calm.client.message(late)).status_reason == "gone"
    assert calm.receipts == asked

    # Enabled again, messages flow, and those that failed can be had.
    back = True
    view = await calm.client.agents.update(agent.id, endpoint_status="active")
    assert (view.endpoint_status, view.endpoint_disabled_at, view.endpoint_disabled_reason) == (
        "active",
        None,
        None,
    )
    await calm.send(agent.id, wait="delivered", timeout_ms=60_000)
    reply = await calm.client.dead_letters.replay([*ids, late])
    assert reply.replayed == 31

    async def delivered() -> bool:
        found = await calm.fetch(
            "SELECT count(*) FROM agent_messages WHERE id = ANY($1) AND status = 'delivered'", [*ids, late]
        )
        return bool(found[0][0] == 31)

    await eventually(delivered, what="what was replayed")


async def test_another_endpoint_enables_as_well(calm: Scene) -> None:
    agent = await calm.agent("moved", in_turn(410))
    await calm.send(agent.id)
    await shown(calm, agent.id, "disabled")
    await calm.drain()
    elsewhere = calm.receivers.endpoint(calm.named("moved-to"), lambda _: Answer())
    calm.receivers.trust(calm.named("moved-to"), agent.signing_secret)
    view = await calm.client.agents.update(agent.id, endpoint=elsewhere)
    assert view.endpoint_status == "active"
    await calm.send(agent.id, wait="delivered", timeout_ms=60_000)


async def test_after_a_rotation_receivers_with_either_secret_verify(calm: Scene) -> None:
    """By the public package, the bytes as they came; and with neither of them anything else."""
    got: list[tuple[Mapping[str, str], bytes]] = []

    def note(request: Received) -> Answer:
        got.append((request.headers, request.body))
        return Answer()

    agent = await calm.agent("rotating", note)
    await calm.send(agent.id, wait="delivered", timeout_ms=60_000)
    rotated = await calm.client.keys.rotate_signing_secret(agent.id)
    seen = len(got)

    async def both() -> bool:
        await calm.send(agent.id, wait="delivered", timeout_ms=60_000)
        return len(got[-1][0]["webhook-signature"].split(" ")) == 2

    await eventually(both, what="two signatures")
    headers, body = got[-1]
    assert len(got) > seen
    for secret in (agent.signing_secret, rotated.signing_secret):
        assert Webhook(secret).verify(body, dict(headers))["id"] == msgspec.json.decode(body)["id"]
    with pytest.raises(WebhookVerificationError):
        Webhook(rotated.signing_secret).verify(body + b" ", dict(headers))
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_" + "QUFB" * 8).verify(body, dict(headers))
    overlap = rotated.previous_secret_valid_until - datetime.now(UTC)
    assert timedelta(hours=23, minutes=50) < overlap <= timedelta(hours=24)
