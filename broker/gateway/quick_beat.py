"""The short way of `POST /api/v1/messaging/heartbeat` as whoever the key stands for.

Agents that only say now and then that they are there come with keys nobody remembers: their keys are looked
up here as well, by what the framework's way does it with, and whatever is wrong with them is refused alike.
Requests with unusual headers go on to the framework untouched (`broker.gateway.exchange`).
"""

from functools import partial
from typing import Final

from broker.gateway.call import Call, Principal, Reply, Scope
from broker.gateway.coordination import presence
from broker.gateway.entering import admitted
from broker.gateway.exchange import Counted, Exchange
from broker.gateway.operation import Operation
from broker.gateway.quick_send import is_usual, known_caller
from broker.gateway.services import Services

PATH: Final = "/api/v1/messaging/heartbeat"


class QuickBeat:
    """Notes that the caller is there."""

    def __init__(self, services: Services, operation: Operation) -> None:
        self._services = services
        self._counted = Counted(operation)

    def take(self, exchange: Exchange) -> bool:
        """Note it, and answer when it is noted."""
        principal = known_caller(self._services, exchange, Scope.HEARTBEAT)
        if principal is not None:
            exchange.run(self._counted.serve(exchange, partial(self._beat, principal)))
            return True
        authorization = exchange.headers.get(b"authorization")
        if authorization is None or not is_usual(exchange):
            return False
        exchange.run(self._counted.serve(exchange, partial(self._beat_of_stranger, authorization)))
        return True

    async def _beat_of_stranger(self, authorization: bytes) -> Reply:
        return await self._beat(
            await admitted(self._services, authorization.decode("latin-1"), Scope.HEARTBEAT)
        )

    async def _beat(self, principal: Principal) -> Reply:
        return await presence.heartbeat(
            Call(self._services, principal, {}, query=presence.CallerQuery(), body=None)
        )
