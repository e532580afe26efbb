"""The contract as served: the OpenAPI document, made once, and the page that shows it."""

from typing import Any

from broker.gateway.call import Call, Reply
from broker.gateway.docs_page import PAGE, POLICY

_HEADERS = (("Content-Security-Policy", POLICY), ("X-Content-Type-Options", "nosniff"))


async def show_page(_: Call[Any, Any]) -> Reply:
    """Show the contract, with a form per operation to try it."""
    return Reply(body=PAGE.encode(), media_type="text/html; charset=utf-8", headers=_HEADERS)


async def show_document(call: Call[Any, Any]) -> Reply:
    """Show the contract as OpenAPI 3.1."""
    return Reply(body=call.services.contract)
