"""Sending a message on behalf of an operation whose reply is not that message."""

import time

from broker.gateway.services import Services
from broker.gateway.waiting import Rung, wait_for_row
from broker.telemetry import metrics
from schema.limits import WAIT_MS_DEFAULT
from schema.message import Envelope

_PUBLISHED = metrics.PUBLISHED.child(door="http")


async def post(services: Services, envelope: Envelope) -> None:
    """Publish, and return once the message shows in its recipient's inbox, or WAIT_MS_DEFAULT later: from
    then on it is on its way all the same. Raises: StreamsUnavailable, StreamsFull."""
    with services.waiters.expect(envelope.id, Rung.RECORDED) as waiter:
        await services.publish([envelope], waiter=services.gateway_id)
        _PUBLISHED.inc()
        await wait_for_row(services.pool, waiter, timeout_ms=WAIT_MS_DEFAULT, clock=time.monotonic)
