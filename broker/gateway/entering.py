"""The way into an operation, whatever carries it: authenticate, authorise, read the query."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import falcon.asgi

from broker.gateway.access import authorize, check_claim
from broker.gateway.call import OPERATOR, Call, Principal, Scope
from broker.gateway.operation import Operation
from broker.gateway.reading import QueryReader
from broker.gateway.services import Services
from broker.gateway.sites import check_site

Enter = Callable[[falcon.asgi.Request, dict[str, str], str | None], Awaitable[Call[Any, Any]]]
"""From a request, the parameters of its path and its credentials to the call its operation handles; the body
is not read yet."""


def entrance(services: Services, operation: Operation) -> Enter:
    """Return the way into one operation; what can be made once is made here."""
    scope = operation.scope
    queries = QueryReader(operation.query, operation.check_query)
    open_to_all = scope is None or not services.settings.require_authentication

    def parameters_of(req: falcon.asgi.Request) -> Mapping[str, str | list[str]]:
        last = req.get_header("Last-Event-ID") if operation.streams else None
        # An EventSource that comes back says so in a header, and repeats the address it was first given.
        return req.params if last is None else {**req.params, "last_event_id": last}

    async def enter(
        req: falcon.asgi.Request, path: dict[str, str], authorization: str | None
    ) -> Call[Any, Any]:
        principal = OPERATOR
        if open_to_all:
            if scope is not None:
                check_site(req)
        else:
            assert scope is not None
            principal = await admitted(services, authorization, scope)
        call = Call(
            services,
            principal,
            path,
            query=queries.read(parameters_of(req)),
            body=None,
            claimed_agent=_claimed_agent(req),
            idempotency_key=req.get_header("Idempotency-Key"),
            authorization=None if open_to_all else authorization,
        )
        if call.claimed_agent is not None:
            await check_claim(call)
        return call

    return enter


async def admitted(services: Services, authorization: str | None, scope: Scope) -> Principal:
    """Return who calls, if they may do this. An agent's call counts as a sign of life.

    Raises: Unauthenticated, Forbidden, Killed, StoreUnavailable.
    """
    principal = await services.keyring.principal_of(authorization, now_ms=services.now_ms())
    authorize(principal, scope)
    if principal.agent_id is not None:
        services.gatekeeper.check_agent(principal.agent_id)
        services.signs_of_life.hear(principal.agent_id)
        services.key_use.note(principal.key_id, now_ms=services.now_ms())
    return principal


def _claimed_agent(req: falcon.asgi.Request) -> str | None:
    """Return the `X-Agent-Id` header; names are UTF-8 there, read as Latin-1 so far. Empty: none."""
    claimed = req.get_header("X-Agent-Id")
    if claimed is None or claimed.isascii():
        return claimed or None
    return claimed.encode("latin-1").decode(errors="replace")
