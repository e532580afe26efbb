"""The OpenAPI 3.1 document, made from the table of operations and the types it names."""

import re
from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any, Final

import msgspec

from broker.gateway.call import NoQuery
from broker.gateway.errors import BodyTimeout, Internal
from broker.gateway.operation import Operation
from schema.errors import (
    BrokerError,
    Forbidden,
    Malformed,
    Rejected,
    TooLarge,
    Unauthenticated,
    UnsupportedMedia,
)
from schema.http import ErrorReply

Document = dict[str, Any]  # JSON Schema is JSON of any shape

_REF: Final = "#/components/schemas/{name}"
_PARAMETER: Final = re.compile(r"\{(\w+)\}")
_OF_KEYS: Final = (Unauthenticated, Forbidden)
_OF_BODIES: Final = (Malformed, BodyTimeout, TooLarge, UnsupportedMedia, Rejected)
_DESCRIPTION: Final = (
    "Agents publish messages; the broker routes them by name or capability, delivers them with retries and "
    "records every attempt. Ids are UUIDs; wherever an agent is named its unique name works too. "
    "Times are RFC 3339 in UTC."
)


def document(operations: Sequence[Operation], *, version: str) -> Document:
    """Return the OpenAPI document of these operations."""
    types = list(dict.fromkeys(_types(operations)))
    shapes, components = msgspec.json.schema_components(types, ref_template=_REF)
    schema_of = dict(zip(types, shapes, strict=True))
    paths: Document = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _described(operation, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Agent Broker", "version": version, "description": _DESCRIPTION},
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The operator key (AGENT_API_KEY), or an agent's own.",
                }
            },
        },
        "tags": [{"name": tag} for tag in dict.fromkeys(o.tag for o in operations)],
    }


def _types(operations: Iterable[Operation]) -> Iterable[Any]:  # Struct types and generics of them
    yield ErrorReply
    for operation in operations:
        if operation.body is not None:
            yield operation.body
        yield from (type_ for type_ in operation.replies.values() if type_ is not None)
        yield operation.query


def _described(operation: Operation, schema_of: dict[Any, Document]) -> Document:
    described: Document = {
        "operationId": operation.name,
        "summary": operation.summary,
        "description": " ".join((operation.handler.__doc__ or "").split()),
        "tags": [operation.tag],
        "parameters": _parameters(operation),
        "responses": _responses(operation, schema_of),
        "security": [] if operation.scope is None else [{"key": [operation.scope.value]}],
    }
    if operation.body is not None:
        content = {"application/json": {"schema": schema_of[operation.body]}}
        if operation.raw_body:
            content["application/x-ndjson"] = {"schema": {"type": "string"}}
        described["requestBody"] = {"required": True, "content": content}
    return described


def _parameters(operation: Operation) -> list[Document]:
    in_path = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}, "description": what}
        for name in _PARAMETER.findall(operation.path)
        for what in [_meaning(name)]
    ]
    if operation.query is NoQuery:
        return in_path
    (shape,), components = msgspec.json.schema_components([operation.query], ref_template=_REF)
    properties = components[shape["$ref"].rpartition("/")[2]]["properties"]
    return in_path + [
        {"name": name, "in": "query", "required": False, "schema": schema}
        for name, schema in properties.items()
    ]


def _meaning(parameter: str) -> str:
    return {"agent_id": "UUID or name of an agent", "message_id": "UUID of a message"}[parameter]


def _responses(operation: Operation, schema_of: dict[Any, Document]) -> Document:
    responses: Document = {}
    for status, type_ in operation.replies.items():
        content: Document = {"schema": schema_of[type_]} if type_ is not None else {}
        responses[str(status)] = {
            "description": HTTPStatus(status).phrase,
            "content": {operation.media_type: content},
        }
    by_status: dict[int, list[str]] = {}
    for error in _errors(operation):
        by_status.setdefault(error.status, []).append(error.code)
    for status, codes in sorted(by_status.items()):
        responses[str(status)] = {
            "description": f"{HTTPStatus(status).phrase}: `{'`, `'.join(dict.fromkeys(codes))}`",
            "content": {"application/json": {"schema": schema_of[ErrorReply]}},
        }
    return responses


def _errors(operation: Operation) -> Iterable[type[BrokerError]]:
    if operation.scope is not None:
        yield from _OF_KEYS
    if operation.body is not None:
        yield from _OF_BODIES
    if operation.query is not NoQuery:
        yield Rejected
    yield from operation.errors
    yield Internal
