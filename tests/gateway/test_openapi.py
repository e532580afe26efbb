"""The OpenAPI document: valid, complete, and true to the types it is made from."""

import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated, Any, Literal

import httpx
import jsonschema_rs
import pytest
from msgspec import UNSET, Meta, Raw, Struct, UnsetType, field
from schemathesis.specs.openapi.definitions import OPENAPI_31

from broker.gateway.openapi.document import document, errors_of
from broker.gateway.openapi.schemas import Mode, Schemas
from broker.gateway.openapi.words import FAULTS
from broker.gateway.operation import Operation
from broker.gateway.operations import OPERATIONS

Json = dict[str, Any]
DOCUMENT = document(OPERATIONS, version="0")
EACH = pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)


def described(operation: Operation) -> Json:
    found: Json = DOCUMENT["paths"][operation.path][operation.method.lower()]
    return found


def validator(schema: Json) -> jsonschema_rs.Draft202012Validator:
    return jsonschema_rs.Draft202012Validator(
        {**schema, "components": DOCUMENT["components"]}, validate_formats=True
    )


def nodes(node: Any) -> Iterator[Any]:
    yield node
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from nodes(child)


def test_the_document_is_openapi_3_1() -> None:
    jsonschema_rs.Draft202012Validator(OPENAPI_31).validate(DOCUMENT)
    for schema in DOCUMENT["components"]["schemas"].values():
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})


async def test_the_gateway_serves_this_document(http: httpx.AsyncClient) -> None:
    served = (await http.get("/openapi.json")).json()
    assert served["info"].pop("version")
    assert served == {**DOCUMENT, "info": {k: v for k, v in DOCUMENT["info"].items() if k != "version"}}


def test_every_operation_is_described_and_every_reference_resolves() -> None:
    found = {(m.upper(), p) for p, methods in DOCUMENT["paths"].items() for m in methods}
    assert found == {(operation.method, operation.path) for operation in OPERATIONS}
    references = {node["$ref"] for node in nodes(DOCUMENT) if isinstance(node, dict) and "$ref" in node}
    assert references
    for reference in references:
        target: Any = DOCUMENT
        for step in reference.removeprefix("#/").split("/"):
            target = target[step]


def test_every_tag_says_what_belongs_under_it() -> None:
    names = [tag["name"] for tag in DOCUMENT["tags"]]
    assert sorted(names) == sorted({operation.tag for operation in OPERATIONS})
    assert [tag["name"] for tag in DOCUMENT["tags"] if not tag["description"]] == []


@EACH
def test_every_parameter_says_what_it_means(operation: Operation) -> None:
    for parameter in described(operation)["parameters"]:
        if "$ref" not in parameter:
            assert parameter["description"], parameter["name"]
            assert "type" in parameter["schema"] or "anyOf" in parameter["schema"], parameter["name"]


@pytest.mark.parametrize("name", DOCUMENT["components"]["schemas"])
def test_every_field_says_what_it_means(name: str) -> None:
    fields = DOCUMENT["components"]["schemas"][name].get("properties", {})
    mute = [field for field, schema in fields.items() if "description" not in schema and not points(schema)]
    assert mute == []


def points(schema: Json) -> bool:
    """A reference says elsewhere what it means."""
    return "$ref" in schema or any("$ref" in choice for choice in schema.get("anyOf", ()))


@EACH
def test_every_reply_has_a_schema_and_an_example_it_allows(operation: Operation) -> None:
    for status, reply in described(operation)["responses"].items():
        assert reply["description"], status
        assert "X-Request-Id" in reply["headers"]
        for media_type, content in reply.get("content", {}).items():
            assert content["schema"], (status, media_type)
            if media_type == "application/json":
                shown = [one["value"] for one in content.get("examples", {}).values()]
                for example in shown or [content["example"]]:
                    validator(content["schema"]).validate(example)


@EACH
def test_every_body_has_an_example_it_allows(operation: Operation) -> None:
    if operation.body is None:
        assert "requestBody" not in described(operation)
        return
    for content in described(operation)["requestBody"]["content"].values():
        validator(content["schema"]).validate(content["example"])


@EACH
def test_examples_of_parameters_are_allowed(operation: Operation) -> None:
    for parameter in described(operation)["parameters"]:
        if "example" in parameter:
            validator(parameter["schema"]).validate(parameter["example"])


@EACH
def test_every_error_is_documented_by_status_and_code(operation: Operation) -> None:
    responses = described(operation)["responses"]
    for error in errors_of(operation):
        content = responses[str(error.status)]["content"]["application/json"]
        assert error.code in content["examples"], error
        assert FAULTS[error.code]
    assert ("401" in responses) == (operation.scope is not None)
    for status, header in (("401", "WWW-Authenticate"), ("429", "Retry-After"), ("503", "Retry-After")):
        if status in responses:
            assert header in responses[status]["headers"]


@EACH
def test_security_is_that_of_the_row(operation: Operation) -> None:
    wanted = [] if operation.scope is None else [{"key": [operation.scope.value]}]
    assert described(operation)["security"] == wanted


def test_an_undocumented_code_is_no_reply_of_an_operation() -> None:
    schema = DOCUMENT["paths"]["/api/agents"]["post"]["responses"]["409"]["content"]["application/json"][
        "schema"
    ]
    error = {"code": "name_taken", "message": "it is", "request_id": "1"}
    assert validator(schema).is_valid({"error": error})
    assert not validator(schema).is_valid({"error": {**error, "code": "fenced"}})


def test_what_can_be_done_with_a_new_thing_is_linked() -> None:
    links = DOCUMENT["paths"]["/api/agents"]["post"]["responses"]["201"]["links"]
    assert links["showAgent"]["parameters"] == {"agent_id": "$response.body#/id"}
    sent = DOCUMENT["paths"]["/api/messages"]["post"]["responses"]["202"]["links"]
    assert {"showMessage", "listAttempts", "changeStatus"} <= sent.keys()


# --- schemas of types -------------------------------------------------------------------------------------


class Inner(Struct):
    """Within."""

    amount: Decimal


class Outer(Struct, kw_only=True):
    """A type with everything."""

    content: Raw
    needed: int
    bounded: Annotated[int, Meta(ge=1, description="mine")] = 3
    choice: Literal["a", "b"] | None = None
    inner: Inner | None = None
    maybe: str | UnsetType = UNSET
    priority: int = 5
    several: list[Inner] = field(default_factory=list)


def test_what_is_asked_for_and_what_is_shown_differ_where_they_should() -> None:
    schemas = Schemas()
    assert schemas.of(Outer, Mode.ASKED) == {"$ref": "#/components/schemas/Outer"}
    assert schemas.of(Outer, Mode.SHOWN) == {"$ref": "#/components/schemas/OuterReply"}
    asked, shown = schemas.components["Outer"], schemas.components["OuterReply"]
    assert asked["required"] == ["content", "needed"]
    assert shown["required"] == ["content", "needed", "bounded", "choice", "inner", "priority", "several"]
    assert asked["properties"]["content"]["type"] == "object"
    assert asked["properties"]["bounded"] == {
        "type": "integer",
        "minimum": 1,
        "description": "mine",
        "default": 3,
    }
    assert shown["properties"]["choice"] == {"type": ["string", "null"], "enum": ["a", "b", None]}
    assert asked["properties"]["priority"].items() >= {"minimum": 1, "maximum": 10, "default": 5}.items()
    assert shown["properties"]["inner"]["anyOf"][1] == {"type": "null"}
    assert schemas.components["InnerReply"]["properties"]["amount"]["type"] == "number"
    assert {"type": "number"} in schemas.components["Inner"]["properties"]["amount"]["anyOf"]


def test_a_query_parameter_is_never_null() -> None:
    fields = Schemas().fields(Outer, Mode.ASKED)
    assert fields["choice"] == {"type": "string", "enum": ["a", "b"]}


ASKED = [one for one in OPERATIONS if one.query.__struct_fields__ and not one.streams]


@pytest.mark.parametrize("operation", ASKED, ids=lambda operation: operation.name)
async def test_a_query_parameter_without_a_value_is_none(
    http: httpx.AsyncClient, operation: Operation
) -> None:
    queries = [one for one in described(operation)["parameters"] if one.get("in") == "query"]
    assert [one["name"] for one in queries if not one["allowEmptyValue"]] == []
    path = re.sub(r"\{\w+\}", "nobody", operation.path)
    plain = await http.request(operation.method, path)
    empty = await http.request(operation.method, path, params=dict.fromkeys((q["name"] for q in queries), ""))
    assert "=&" in f"{empty.url.query.decode()}&"
    assert (empty.status_code, _code(empty)) == (plain.status_code, _code(plain))


def _code(reply: httpx.Response) -> str | None:
    code: str | None = reply.json().get("error", {}).get("code") if reply.is_error else None
    return code
