"""The way into an operation, whatever carries it: authenticate, authorise, read the query."""

from collections.abc import Awaitable, Callable
from typing import Any

import falcon.asgi

from broker.gateway.access import authorize
from broker.gateway.call import OPERATOR, Call
from broker.gateway.operation import Operation
from broker.gateway.reading import QueryReader
from broker.gateway.services import Services

Enter = Callable[[falcon.asgi.Request, dict[str, str], str | None], Awaitable[Call[Any, Any]]]
"""From a request, the parameters of its path and its credentials to the call its operation handles; the body
is not read yet."""


def entrance(services: Services, operation: Operation) -> Enter:
    """Return the way into one operation; what can be made once is made here."""
    scope = operation.scope
    queries = QueryReader(operation.query, operation.check_query)
    open_to_all = scope is None or not services.settings.require_authentication

    async def enter(
        req: falcon.asgi.Request, path: dict[str, str], authorization: str | None
    ) -> Call[Any, Any]:
        principal = OPERATOR
        if not open_to_all:
            principal = await services.keyring.principal_of(authorization, now_ms=services.now_ms())
            assert scope is not None
            authorize(principal, scope)
            if principal.agent_id is not None:
                services.signs_of_life.hear(principal.agent_id)
                services.key_use.note(principal.key_id, now_ms=services.now_ms())
        return Call(
            services,
            principal,
            path,
            query=queries.read(req.params),
            body=None,
            claimed_agent=req.get_header("X-Agent-Id"),
            idempotency_key=req.get_header("Idempotency-Key"),
            authorization=None if open_to_all else authorization,
        )

    return enter
