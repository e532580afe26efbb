"""The short way of `POST /api/v1/messaging/heartbeat` for an agent with its own key, where that is known.

Everything else, and whatever is wrong, goes on to the framework untouched (`broker.gateway.exchange`).
"""

from typing import Final

from broker.gateway.call import Scope
from broker.gateway.exchange import Counted, Exchange
from broker.gateway.heartbeats import beat
from broker.gateway.operation import Operation
from broker.gateway.quick_send import known_caller
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
        if principal is None or principal.agent_id is None:
            return False
        exchange.run(self._answer(exchange, principal.agent_id))
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
