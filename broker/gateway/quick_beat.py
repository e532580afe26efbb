"""The short way of `POST /api/v1/messaging/heartbeat` as whoever the key stands for.

Agents that only say now and then that they are there come with keys nobody remembers: their keys are looked
up here as well, by what the framework's way does it with, and whatever is wrong with them is refused alike.
Requests with unusual headers go on to the framework untouched (`broker.gateway.exchange`).
"""

from typing import Final

from broker.gateway.call import Call, Scope
from broker.gateway.coordination import presence
from broker.gateway.entering import admitted
from broker.gateway.exchange import Counted, Exchange
from broker.gateway.heartbeats import beat
from broker.gateway.operation import Operation
from broker.gateway.quick_send import is_plain, known_caller
from broker.gateway.services import Services
from schema.codec import encode
from schema.presence import SignOfLife
from schema.times import from_ms

PATH: Final = "/api/v1/messaging/heartbeat"


class QuickBeat:
    """Notes that the caller is there."""

    def __init__(self, services: Services, operation: Operation) -> None:
        self._services = services
        self._counted = Counted(operation)

    def take(self, exchange: Exchange) -> bool:
        """Note it, and answer when it is noted."""
        principal = known_caller(self._services, exchange, Scope.HEARTBEAT)
        if principal is not None and principal.agent_id is not None:
            exchange.run(self._answer(exchange, principal.agent_id))
            return True
        authorization = exchange.headers.get(b"authorization")
        if authorization is None or not is_plain(exchange):
            return False
        exchange.run(self._answer_stranger(exchange, authorization.decode("latin-1")))
        return True

    async def _answer(self, exchange: Exchange, agent_id: str) -> None:
        try:
            at_ms = await beat(self._services, agent_id)
        except Exception as error:  # the top of the request
            self._counted.count(exchange, exchange.fail(error, path=PATH))
            return
        reply = SignOfLife(agent_id=agent_id, heartbeat_at=from_ms(at_ms), is_online=True)
        exchange.answer(200, encode(reply))
        self._counted.count(exchange, 200)

    async def _answer_stranger(self, exchange: Exchange, authorization: str) -> None:
        try:
            principal = await admitted(self._services, authorization, Scope.HEARTBEAT)
            call = Call(self._services, principal, {}, query=presence.CallerQuery(), body=None)
            reply = await presence.heartbeat(call)
        except Exception as error:  # the top of the request
            self._counted.count(exchange, exchange.fail(error, path=PATH))
            return
        exchange.answer(reply.status, encode(reply.body))
        self._counted.count(exchange, reply.status)
