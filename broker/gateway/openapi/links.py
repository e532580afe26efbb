"""OpenAPI links: what can be done next with the thing a reply has just named.

Found by names, so that new operations are linked as they come: a reply with a field `x_id` leads to every
operation with a path parameter `x_id`; the `id` of a thing made at `/things` to all below `/things/{...}`.
"""

from collections.abc import Iterable, Sequence
from typing import Any

from broker.gateway.openapi.schemas import Schema
from broker.gateway.operation import Operation


def links_of(operation: Operation, reply: Schema, operations: Sequence[Operation]) -> dict[str, Any]:  # JSON
    """Return the links of one reply of an operation, whose schema is `reply`."""
    if operation.method == "GET" or "properties" not in reply:
        return {}
    return {
        target.name: {
            "operationId": target.name,
            "parameters": {parameter: f"$response.body#/{field}"},
            "description": f"`{field}` of this reply is the `{parameter}` of `{target.name}`.",
        }
        for target, parameter, field in _targets(operation, reply["properties"], operations)
    }


def _targets(
    operation: Operation, fields: dict[str, Schema], operations: Sequence[Operation]
) -> Iterable[tuple[Operation, str, str]]:
    for target in operations:
        parameters = target.path_parameters
        if target is operation or len(parameters) != 1:
            continue
        (parameter,) = parameters
        if "id" in fields and target.path.startswith(f"{operation.path}/{{{parameter}}}"):
            yield target, parameter, "id"
        elif parameter in fields and parameter != "agent_id" and parameter not in operation.path_parameters:
            yield target, parameter, parameter
