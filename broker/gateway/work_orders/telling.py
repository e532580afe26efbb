"""Publishes the messages of a change that has been committed, and clears them from the outbox."""

import asyncio
import time
from typing import Final

from broker.gateway.services import Services
from broker.gateway.waiting import Rung, wait_for_row
from broker.store import outbox
from broker.telemetry import metrics
from schema.errors import Unavailable
from schema.message import Envelope

PUBLISH_S: Final = 2.0
"""Patience with Redis: the change is committed whatever it says, and the keeper publishes what we cannot."""
RECORDED_WAIT_MS: Final = 1_000

_PUBLISHED: Final = metrics.PUBLISHED.child(door="http")


async def publish(services: Services, envelopes: list[Envelope], *, waiter: str | None = None) -> bool:
    """Publish messages that are in the outbox; tell whether that worked. If not, the keeper will."""
    if not envelopes:
        return True
    try:
        async with asyncio.timeout(PUBLISH_S):
            await services.publish(envelopes, waiter=waiter)
        _PUBLISHED.inc(len(envelopes))
        await outbox.remove(services.pool, [envelope.id for envelope in envelopes])
    except (Unavailable, TimeoutError):
        return False
    return True


async def publish_recorded(services: Services, envelope: Envelope) -> None:
    """Publish one message that is in the outbox, and return once it shows in its recipient's inbox, or a
    second later: it is on its way all the same."""
    with services.waiters.expect(envelope.id, Rung.RECORDED) as waiter:
        if await publish(services, [envelope], waiter=services.gateway_id):
            await wait_for_row(services.pool, waiter, timeout_ms=RECORDED_WAIT_MS, clock=time.monotonic)
