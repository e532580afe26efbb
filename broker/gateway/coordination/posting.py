"""Sending a message on behalf of an operation whose reply is not that message."""

import time
from contextlib import suppress
from typing import Final

from broker.gateway.services import Services
from broker.gateway.waiting import Rung, wait_for_row
from broker.store import outbox
from broker.telemetry import metrics
from schema.errors import Unavailable
from schema.limits import WAIT_MS_DEFAULT
from schema.message import Envelope

_PUBLISHED: Final = metrics.PUBLISHED.child(door="http")


async def post(services: Services, envelope: Envelope) -> None:
    """Publish, and return once the message shows in its recipient's inbox, or WAIT_MS_DEFAULT later: from
    then on it is on its way all the same. Raises: StreamsUnavailable, StreamsFull."""
    with services.waiters.expect(envelope.id, Rung.RECORDED) as waiter:
        await services.publish([envelope], waiter=services.gateway_id)
        _PUBLISHED.inc()
        await wait_for_row(services.pool, waiter, timeout_ms=WAIT_MS_DEFAULT, clock=time.monotonic)


async def post_committed(services: Services, envelope: Envelope) -> None:
    """Publish a message that lies in the outbox, and wait as `post` does. Never fails: what cannot be done
    now the keeper does later."""
    with suppress(Unavailable), services.waiters.expect(envelope.id, Rung.RECORDED) as waiter:
        await services.publish([envelope], waiter=services.gateway_id)
        _PUBLISHED.inc()
        await outbox.remove(services.pool, [envelope.id])
        await wait_for_row(services.pool, waiter, timeout_ms=WAIT_MS_DEFAULT, clock=time.monotonic)
