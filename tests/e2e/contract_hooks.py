"""What schemathesis has to be told: how the contract's own media types are sent."""

from typing import Any

import schemathesis


@schemathesis.serializer("application/x-ndjson")
def lines(ctx: schemathesis.SerializationContext, value: Any) -> Any:  # whatever was generated
    """Send text as it is: one JSON object a line, or whatever was generated instead."""
    return value if isinstance(value, bytes) else str(value).encode(errors="replace")


@schemathesis.hook
def filter_query(context: schemathesis.HookContext, query: dict[str, Any] | None) -> bool:
    """Leave out what is no list where the contract has one: in a query it is a list of one word."""
    return not query or isinstance(query.get("capability", []), list)
