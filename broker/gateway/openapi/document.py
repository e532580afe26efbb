"""The whole document. What it says of an operation comes from its row of the table, the docstring of its
handler, the types the row names and the classes of its errors; nothing is written down twice."""

from collections.abc import Iterable, Sequence
from http import HTTPStatus
from typing import Any, Final

from broker.gateway.call import NoQuery
from broker.gateway.errors import BodyTimeout, Internal
from broker.gateway.idempotency import KEY_PATTERN
from broker.gateway.openapi.examples import example_of, fits
from broker.gateway.openapi.links import links_of
from broker.gateway.openapi.schemas import Mode, Schema, Schemas, owners_of
from broker.gateway.openapi.wording.word import AN_ID
from broker.gateway.openapi.words import FAULTS, TAGS, word_for
from broker.gateway.operation import Operation
from schema import limits
from schema.codec import encode
from schema.errors import (
    AgentMismatch,
    BrokerError,
    Forbidden,
    IdempotencyMismatch,
    Killed,
    Malformed,
    Rejected,
    StoreUnavailable,
    TooLarge,
    Unauthenticated,
    UnsupportedMedia,
)
from schema.http import ErrorReply

Document = dict[str, Any]  # OpenAPI is JSON of any shape

JSON: Final = "application/json"
_OF_KEYS: Final = (
    Unauthenticated,
    Forbidden,
    AgentMismatch,
    Killed,
    StoreUnavailable,
)  # keys are rows in Postgres
_OF_BODIES: Final = (Malformed, BodyTimeout, TooLarge, UnsupportedMedia, Rejected)
_ABOUT: Final = """\
Agents publish messages; the broker routes them by name or by capability, delivers them with retries and \
records every attempt.

Ids are UUIDs, and **wherever an agent is named its unique name works too**; replies always carry the \
UUID. Times are RFC 3339 in UTC; one without an offset is taken as UTC. Replies may gain fields; unknown \
fields and query parameters are ignored.

`Authorization: Bearer <key>`: an agent's own key is its identity, and an agent named in body, query or the \
`X-Agent-Id` header is only a claim that must agree (403 `agent_mismatch`). The operator's key may act for \
anyone. Every reply carries `X-Request-Id`, the caller's own where it sent one."""

_HEADERS: Final[dict[str, Document]] = {
    "X-Request-Id": {
        "description": "The id of this request: the caller's own where it sent one. Also in the log.",
        "required": True,
        "schema": {"type": "string", "maxLength": 64},
        "example": AN_ID,
    },
    "Location": {
        "description": "Where what was made can be seen.",
        "required": True,
        "schema": {"type": "string", "format": "uri-reference"},
        "example": f"/api/messages/{AN_ID}",
    },
    "Link": {
        "description": 'The next page (RFC 8288, `rel="next"`); absent on the last one.',
        "schema": {"type": "string"},
        "example": '</api/agents?limit=20&cursor=abc>; rel="next"',
    },
    "X-Next-Cursor": {
        "description": "The cursor of the next page; absent on the last one.",
        "schema": {"type": "string"},
    },
    "Idempotent-Replayed": {
        "description": "`true` where this is the first reply to the same `Idempotency-Key` once more.",
        "schema": {"type": "string", "enum": ["true"]},
    },
    "Retry-After": {
        "description": "Seconds after which to try again.",
        "required": True,
        "schema": {"type": "string", "pattern": "^[0-9]+$"},
        "example": "2",
    },
    "WWW-Authenticate": {
        "description": "How to authenticate (RFC 6750).",
        "required": True,
        "schema": {"type": "string"},
        "example": 'Bearer realm="agent-broker"',
    },
}
_OF_STATUS: Final = {401: ("WWW-Authenticate",), 429: ("Retry-After",), 503: ("Retry-After",)}


def document(operations: Sequence[Operation], *, version: str) -> Document:
    """Return the OpenAPI document of these operations."""
    schemas = Schemas()
    schemas.of(ErrorReply, Mode.SHOWN)
    paths: Document = {}
    for operation in operations:
        described = _described(operation, schemas, operations)
        paths.setdefault(operation.path, {})[operation.method.lower()] = described
    used = dict.fromkeys(operation.tag for operation in operations)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Agent Broker",
            "version": version,
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/", "description": "This gateway"}],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "headers": _HEADERS,
            "parameters": {"AgentClaim": _CLAIM, "IdempotencyKey": _IDEMPOTENCY_KEY},
            "securitySchemes": {
                "key": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": "The operator's key (`AGENT_API_KEY`), or an agent's own.",
                }
            },
        },
        "tags": [
            {"name": tag, "description": TAGS.get(tag, "")}
            for tag in dict.fromkeys((*TAGS, *used))
            if tag in used
        ],
    }


_CLAIM: Final[Document] = {
    "name": "X-Agent-Id",
    "in": "header",
    "required": False,
    "description": "Who the caller acts as: with an operator's key anyone, with an agent's only itself.",
    "schema": {"type": "string"},
}


_IDEMPOTENCY_KEY: Final[Document] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key and body within 24 h get the first reply; with another body it is 422.",
    "schema": {
        "type": "string",
        "minLength": 1,
        "maxLength": limits.IDEMPOTENCY_KEY_CHARS_MAX,
        "pattern": KEY_PATTERN,
    },
}


def _described(operation: Operation, schemas: Schemas, operations: Sequence[Operation]) -> Document:
    described: Document = {
        "operationId": operation.name,
        "summary": operation.summary,
        "description": _paragraphs(operation.handler.__doc__ or ""),
        "tags": [operation.tag],
        "parameters": _parameters(operation, schemas),
        "responses": dict(sorted(_responses(operation, schemas, operations).items())),
        "security": [] if operation.scope is None else [{"key": [operation.scope.value]}],
    }
    if operation.body is not None:
        described["requestBody"] = _body(operation, schemas)
    return described


def _paragraphs(docstring: str) -> str:
    """Return a docstring as Markdown: a line a paragraph."""
    return "\n\n".join(" ".join(part.split()) for part in docstring.split("\n\n") if part.strip())


def _parameters(operation: Operation, schemas: Schemas) -> list[Document]:
    parameters = [_in_path(name) for name in operation.path_parameters]
    if operation.query is not NoQuery:
        fields = schemas.fields(operation.query, Mode.ASKED)
        parameters += [_in_query(operation, name, schema) for name, schema in fields.items()]
    if acts_as_agent(operation):
        parameters.append({"$ref": "#/components/parameters/AgentClaim"})
    if operation.idempotent_by_key:
        parameters.append({"$ref": "#/components/parameters/IdempotencyKey"})
    return parameters


def acts_as_agent(operation: Operation) -> bool:
    """Tell whether the caller of an operation is an agent it may have to name: then a header will do, too."""
    query = operation.query.__struct_fields__
    if operation.method == "GET":
        return "agent_id" in query
    asked = (*query, *getattr(operation.body, "__struct_fields__", ()))
    return "from_agent_id" in asked or "agent_id" in query


def _in_path(name: str) -> Document:
    word = word_for((), name)
    facets = {} if word is None else word.asked
    described: Document = {
        "name": name,
        "in": "path",
        "required": True,
        "schema": {"type": "string", **facets},
    }
    if word is not None:
        described |= {"description": word.text, "example": word.example}
    return described


def _in_query(operation: Operation, name: str, schema: Schema) -> Document:
    """Return a query parameter. `?status=` is no status, and a filter nothing can match is no fault."""
    schema = {facet: value for facet, value in schema.items() if facet not in ("minLength", "maxLength")}
    if schema.get("type") == "boolean":
        schema |= {"type": ["boolean", "integer"], "enum": [True, False, 1, 0]}
    if schema.get("format") == "date-time":  # seconds since the epoch are understood as well
        moment = {"type": schema.pop("type"), "format": schema.pop("format")}
        schema["anyOf"] = [moment, {"type": "number"}]
    described: Document = {"name": name, "in": "query", "required": False, "allowEmptyValue": True}
    described["description"] = schema.pop("description", "")
    described["schema"] = schema
    word = word_for(owners_of(operation.query), name)
    if word is not None and word.example is not None and fits(word, schema):
        described["example"] = word.example
    return described


def _body(operation: Operation, schemas: Schemas) -> Document:
    schema = schemas.of(operation.body, Mode.ASKED)
    if schema.get("type") == "array":
        schema = {**schema, "minItems": 1, "maxItems": limits.BATCH_MESSAGES_MAX}
    example = example_of(schemas, schema)
    content: Document = {JSON: {"schema": schema, "example": example}}
    if operation.raw_body:
        one_per_line = "\n".join(encode(item).decode() for item in example)
        lines = {"type": "string", "description": "One JSON object a line.", "pattern": r"\S"}
        content["application/x-ndjson"] = {"schema": lines, "example": one_per_line}
    return {"required": not operation.optional_body, "content": content}


# --- replies ----------------------------------------------------------------------------------------------


def _responses(operation: Operation, schemas: Schemas, operations: Sequence[Operation]) -> Document:
    responses: Document = {}
    for status, type_ in operation.replies.items():
        content: Document = {"schema": {"type": "string"}}
        links: Document = {}
        if type_ is not None:
            schema = schemas.of(type_, Mode.SHOWN)
            content = {"schema": schema, "example": example_of(schemas, schema, required_only=True)}
            links = links_of(operation, schemas.resolved(schema), operations)
        responses[str(status)] = {
            "description": HTTPStatus(status).phrase,
            "headers": _headers(_names(operation, status, operations)),
            "content": {operation.media_type: content},
        }
        if status in (HTTPStatus.SWITCHING_PROTOCOLS, HTTPStatus.NO_CONTENT):
            del responses[str(status)]["content"]
        if links:
            responses[str(status)]["links"] = links
    by_status: dict[int, list[type[BrokerError]]] = {}
    for error in dict.fromkeys(errors_of(operation)):
        by_status.setdefault(error.status, []).append(error)
    for status, errors in by_status.items():
        described = _error_response(status, list(dict.fromkeys(error.code for error in errors)))
        if (
            str(status) in responses
        ):  # a success and an error of one status: /readyz says 503 in its own words
            described["content"][JSON]["schema"] = {
                "anyOf": [
                    responses[str(status)]["content"][JSON]["schema"],
                    described["content"][JSON]["schema"],
                ]
            }
        responses[str(status)] = described
    return responses


def _names(operation: Operation, status: int, operations: Sequence[Operation]) -> Iterable[str]:
    """Yield the headers of a success."""
    yield from _OF_STATUS.get(status, ())
    if "cursor" in operation.query.__struct_fields__:
        yield from ("Link", "X-Next-Cursor")
    if operation.idempotent_by_key:
        yield "Idempotent-Replayed"
    made = status in (HTTPStatus.CREATED, HTTPStatus.ACCEPTED) and operation.method == "POST"
    if made and any(other.method == "GET" and _is_item(operation, other) for other in operations):
        yield "Location"


def _is_item(collection: Operation, other: Operation) -> bool:
    return any(other.path == f"{collection.path}/{{{name}}}" for name in other.path_parameters)


def _headers(names: Iterable[str]) -> Document:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in ("X-Request-Id", *names)}


def _error_response(status: int, codes: Sequence[str]) -> Document:
    """Return the reply to what went wrong with this status; its code is one of these and no other."""
    narrowed = {"properties": {"error": {"properties": {"code": {"enum": list(codes)}}}}}
    return {
        "description": f"{HTTPStatus(status).phrase}: `{'`, `'.join(codes)}`",
        "headers": _headers(_OF_STATUS.get(status, ())),
        "content": {
            JSON: {
                "schema": {"allOf": [{"$ref": "#/components/schemas/ErrorReply"}, narrowed]},
                "examples": {code: {"value": _error_example(code)} for code in codes},
            }
        },
    }


def _error_example(code: str) -> Document:
    error: Document = {"code": code, "message": FAULTS.get(code, code), "request_id": AN_ID}
    if code == Rejected.code:
        fault = {"field": "priority", "message": "must be 1 (highest) to 10"}
        error |= {"field": "priority", "details": [fault]}
    return {"error": error}


def errors_of(operation: Operation) -> Iterable[type[BrokerError]]:
    """Yield every error an operation may answer: its own, and those any operation of its kind may."""
    if operation.scope is not None:
        yield from _OF_KEYS
    if operation.body is not None:
        yield from _OF_BODIES
    if operation.query is not NoQuery:
        yield Rejected
    if operation.idempotent_by_key:
        yield IdempotencyMismatch
    yield from operation.errors
    yield Internal
