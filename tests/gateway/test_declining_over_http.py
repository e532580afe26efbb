"""A recipient declines over HTTP: another gets the message, or it fails and its sender is told."""

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from gateway_rig import Register, calling
from ledger_events import envelope, now_ms, settled
from msgspec import Raw

from broker.core.fold import fold
from broker.gateway.serve import Running
from broker.store import record
from broker.streams.connection import open_connection
from broker.streams.keys import Keys, taken_back
from schema.codec import decode_envelope
from schema.ledger import EventKind
from schema.limits import REROUTES_MAX
from schema.message import LANES, Envelope, Status


async def waits(gateway: Running, to: str, *, tried: int | None = 0, **more: Any) -> Envelope:
    """Record a message that waits for an agent; `tried`: after so many others (None: it was named)."""
    message = envelope(to_agent_id=to, **more)
    event = settled(message, kind=EventKind.ROUTED, status=Status.PENDING, attempt=None, mailbox_entry="1-0")
    if tried is not None:
        said = {"agent_id": "an agent", "reason": "declined", "attempts": 0, "at_ms": now_ms()}
        event.route = Raw(json.dumps({"chosen": to, "tried": [said] * tried}).encode())
    await record.write(gateway.services.pool, fold([event]))
    return message


async def published(streams_url: str) -> list[Envelope]:
    found = []
    async with await open_connection(streams_url, name="test") as connection:
        for keys in (Keys(0), Keys(1)):
            for lane in LANES:
                for _, fields in await connection.send("XRANGE", keys.ingress[lane], "-", "+"):
                    found.append(decode_envelope(fields[1]))
    return found


async def decline(gateway: Running, agent: dict[str, Any], message: Envelope, expected: int = 200) -> Any:
    async with calling(gateway, agent["api_key"]) as own:
        reply = await own.put(f"/api/messages/{message.id}/status", json={"status": "declined"})
    assert reply.status_code == expected, reply.text
    return reply.json()


async def test_what_was_routed_by_capability_goes_on_without_the_one_who_declined(
    gateway: Running, register: Register, streams_url: str
) -> None:
    a, sender = await register("a"), await register("sender")
    message = await waits(gateway, a["id"], requirements=["sums"], from_agent_id=sender["id"])
    assert (await decline(gateway, a, message))["status"] == "pending"
    [again] = await published(streams_url)
    assert (again.id, again.round, again.to_agent_id, again.requirements) == (message.id, 1, None, ["sums"])
    assert [(one.agent_id, one.reason) for one in again.tried or ()] == [(a["id"], "declined")]
    assert await gateway.services.pool.fetch_value("SELECT count(*) FROM outbox") == 0
    await decline(gateway, a, message, 404)  # it is not its any more
    assert len(await published(streams_url)) == 1


async def test_what_was_scheduled_and_declined_is_taken_back_only_in_the_round_its_sender_cancels(
    gateway: Running, register: Register, streams_url: str
) -> None:
    """Routers drop what was taken back: named without its round, the round that goes on would be lost."""
    a, sender = await register("a"), await register("sender")
    more = {"requirements": ["sums"], "from_agent_id": sender["id"], "deliver_at": datetime.now(UTC)}
    message = await waits(gateway, a["id"], **more)
    assert (await decline(gateway, a, message))["status"] == "pending"
    async with await open_connection(streams_url, name="test") as connection:
        for expected in (False, True):
            for keys in (Keys(0), Keys(1)):
                found = await connection.send("ZSCORE", keys.withdrawn, taken_back(message.id, 1))
                assert (found is not None) is expected
            async with calling(gateway, sender["api_key"]) as own:
                reply = await own.put(f"/api/messages/{message.id}/status", json={"status": "cancelled"})
            assert reply.status_code == 200, reply.text


@pytest.mark.parametrize("tried", [None, REROUTES_MAX], ids=["named", "often enough"])
async def test_else_it_fails_and_its_sender_is_told(
    gateway: Running, register: Register, streams_url: str, tried: int | None
) -> None:
    a, sender = await register("a"), await register("sender")
    more = {} if tried is None else {"requirements": ["sums"]}
    message = await waits(gateway, a["id"], tried=tried, from_agent_id=sender["id"], **more)
    for _ in range(2):
        shown = await decline(gateway, a, message)
        assert (shown["status"], shown["status_reason"]) == ("failed", "declined")
    assert await published(streams_url) == []
    assert await gateway.services.pool.fetch_value("SELECT count(*) FROM outbox") == 1
    await decline(gateway, sender, message, 403)
