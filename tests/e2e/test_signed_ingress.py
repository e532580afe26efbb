"""A whole broker whose native publishers must sign: with what the documentation gives an agent's process, it
sends as itself and as nobody else; everything the broker moves or publishes itself arrives."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from publisher_rights import rights, url_of
from role_processes import RoleProcesses
from scene import a_scene, eventually

from broker.client.streams import StreamPublisher, message
from schema.codec import encode
from schema.message import Envelope

pytestmark = pytest.mark.e2e

SETTINGS = {
    "REQUIRE_SIGNED_INGRESS": "true",
    "SECRETS_KEY": "a-secrets-key-of-more-than-thirty-two-characters",
    "LEASE_MS": "8000",
}


@pytest.fixture
def roles(tmp_path: Path, streams_url: str, database_url: str) -> Iterator[RoleProcesses]:
    roles = RoleProcesses(tmp_path, streams_url, database_url, **SETTINGS)
    for role in ("gateway", "worker", "recorder", "keeper"):
        roles.start(role)
    yield roles
    roles.stop()


async def test_an_agents_process_with_redis_sends_as_itself_and_in_nobody_elses_name(
    roles: RoleProcesses,
) -> None:
    async with a_scene(roles.place) as scene:
        await eventually(scene.client.is_ready, what="the gateway")
        own, other, to = [await scene.agent(word) for word in ("own", "other", "to")]
        await scene.whole_again(to)  # which the gateway has published, unsigned
        key = await scene.client.keys.add(own.name)
        assert key.publishing_key is not None
        await scene.redis.execute_command("ACL", "SETUSER", "publisher", *rights())
        url = url_of(roles.place.redis_url)
        try:
            async with (
                await StreamPublisher.open(url, publishing_key=key.publishing_key) as signing,
                await StreamPublisher.open(url) as unsigned,
            ):
                soon = datetime.now(UTC) + timedelta(seconds=1)
                good = [message({"n": n}, to=to.id, sender=own.id) for n in range(100)]
                good.append(message({"n": "later"}, to=to.name, sender=own.name, deliver_at=soon))
                good.append(message({"n": "parked"}, requirements=[scene.named("rare")]))
                scene.ledger.attempted.update(one.id for one in good)
                await signing.publish_many(good)
                scene.ledger.acknowledge(one.id for one in good)
                forged: list[tuple[StreamPublisher, Envelope, str]] = [
                    (signing, message({"n": 1}, to=to.id, sender=other.id), "not_the_sender"),
                    (signing, message({"n": 2}, to=to.id, sender=other.name), "not_the_sender"),
                    (unsigned, message({"n": 3}, to=to.id, sender=own.id), "unsigned"),
                    (unsigned, message({"n": 4}, to=to.id), "unsigned"),
                ]
                for publisher, envelope, _ in forged:
                    await publisher.publish(envelope)
                await scene.agent("able", capabilities=[scene.named("rare")])
                await scene.balance()

                async def set_aside() -> bool:
                    rows = await scene.fetch("SELECT raw, reason FROM quarantine")
                    kept = {(row["reason"], bytes(row["raw"])) for row in rows}
                    return kept == {(reason, encode(envelope)) for _, envelope, reason in forged}

                await eventually(set_aside, what="what was forged in quarantine")
                assert not {envelope.id for _, envelope, _ in forged} & set(scene.ledger.received)
                shown = await scene.client.message(good[-1].id)
                assert shown.from_agent_id == own.id
                await scene.client.keys.revoke(own.name, key.id)
                last: list[Envelope] = []

                async def refused() -> bool:
                    last.append(message({"n": len(last)}, to=to.id, sender=own.id))
                    scene.ledger.attempted.add(last[-1].id)
                    await signing.publish(last[-1])
                    await asyncio.sleep(0.2)
                    rows = await scene.fetch("SELECT FROM quarantine WHERE reason = 'key_ended'")
                    return bool(rows)

                await eventually(refused, what="a revoked key that signs nothing more")
        finally:
            await scene.redis.execute_command("ACL", "DELUSER", "publisher")
