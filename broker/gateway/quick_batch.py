"""The short way of `POST /api/messages/batch`: its handler without the framework, for a caller that is known.

Bodies that are not JSON by their type, or larger than one message may be, and everything else that is unusual
about the request, go on to the framework untouched (`broker.gateway.exchange`).
"""

from functools import partial
from typing import Final

from broker.gateway.batch import SendBatchQuery, send_batch
from broker.gateway.call import Call, Scope
from broker.gateway.exchange import Counted, Exchange
from broker.gateway.operation import Operation
from broker.gateway.quick_send import known_caller
from broker.gateway.services import Services

PATH: Final = "/api/messages/batch"


class QuickBatch:
    """Sends many messages."""

    def __init__(self, services: Services, operation: Operation) -> None:
        self._services = services
        self._counted = Counted(operation)

    def take(self, exchange: Exchange) -> bool:
        """Publish what is accepted, and answer when it is on disk."""
        principal = known_caller(self._services, exchange, Scope.MESSAGES_SEND)
        if principal is None:
            return False
        call = Call(self._services, principal, {}, query=SendBatchQuery(), body=exchange.body)
        exchange.run(self._answer(exchange, call))
        return True

    async def _answer(self, exchange: Exchange, call: Call[bytes, SendBatchQuery]) -> None:
        await self._counted.serve(exchange, partial(send_batch, call))
