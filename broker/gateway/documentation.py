"""The contract as served: the OpenAPI document, made once, and the page that shows it."""

from typing import Any, Final

from broker.gateway.call import Call, Reply
from broker.gateway.docs.assets import ASSETS, PAGE, POLICY

_HEADERS: Final = (("Content-Security-Policy", POLICY), ("X-Content-Type-Options", "nosniff"))
_ASK_AGAIN: Final = ("Cache-Control", "no-cache")
"""A browser may keep the files, and asks each time whether they are still the same."""


async def show_page(_: Call[Any, Any]) -> Reply:
    """Show the contract: to read, to search, with a form per operation to try it."""
    return _asset(PAGE)


async def show_style(_: Call[Any, Any]) -> Reply:
    """Give the style of the page at `/docs`."""
    return _asset("docs.css")


async def show_script(_: Call[Any, Any]) -> Reply:
    """Give the script of the page at `/docs`."""
    return _asset("docs.js")


async def show_document(call: Call[Any, Any]) -> Reply:
    """Show the contract as OpenAPI 3.1."""
    return Reply(body=call.services.contract)


def _asset(name: str) -> Reply:
    asset = ASSETS[name]
    headers = (*_HEADERS, _ASK_AGAIN, ("ETag", asset.etag))
    return Reply(body=asset.body, media_type=asset.media_type, headers=headers)
