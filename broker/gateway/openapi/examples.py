"""Examples of bodies, made from schemas and words, so that they cannot contradict either."""

from typing import Any

from broker.gateway.openapi.schemas import Schema, Schemas
from broker.gateway.openapi.wording.word import A_MOMENT, AN_ID, Word
from broker.gateway.openapi.words import BODIES, word_for

DEPTH_MAX = 6
"""Beyond this an example stops: types may hold themselves."""


def example_of(
    schemas: Schemas, schema: Schema, *, required_only: bool = False, depth: int = 0
) -> Any:  # any JSON
    """Return an example that the schema allows. `required_only`: leave out what may be left out."""
    owner = schema.get("$ref", "").rpartition("/")[2]
    if owner in BODIES:
        return BODIES[owner]
    schema = schemas.resolved(schema)
    for choice in schema.get("anyOf", ()):
        return example_of(schemas, choice, required_only=required_only, depth=depth)
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) else kind
    if depth >= DEPTH_MAX:
        return {"array": [], "object": {}}.get(str(kind))
    if "enum" in schema:
        return schema["enum"][0]
    if kind == "object":
        properties = schema.get("properties", {})
        names = [name for name in properties if not required_only or name in schema.get("required", ())]
        return {
            name: _of_field(schemas, owner, name, properties[name], required_only=required_only, depth=depth)
            for name in names
        }
    if kind == "array":
        return [example_of(schemas, schema["items"], required_only=required_only, depth=depth + 1)]
    return _plain(schema, kind)


def _of_field(
    schemas: Schemas, owner: str, name: str, schema: Schema, *, required_only: bool, depth: int
) -> Any:  # any JSON
    word = word_for(schemas.owners.get(owner, ()), name)
    if "example" in schema or "examples" in schema:
        return schema.get("example", (schema.get("examples") or [None])[0])
    if word is not None and fits(word, schema):
        return word.example
    return example_of(schemas, schema, required_only=required_only, depth=depth + 1)


def fits(word: Word, schema: Schema) -> bool:
    """Tell whether the example of a word is one of this schema: a name may be used with another type."""
    kind = schema.get("type")
    kinds = kind if isinstance(kind, list) else [kind]
    if word.example is None:
        return "null" in kinds
    if "enum" in schema and word.example not in schema["enum"]:
        return False
    if kind is None:
        return "$ref" not in schema and "anyOf" not in schema
    found = {bool: "boolean", int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    same = found[type(word.example)] in kinds or (isinstance(word.example, int) and "number" in kinds)
    return same and (not isinstance(word.example, list) or schema["items"].get("type") == "string")


def _plain(schema: Schema, kind: str | None) -> Any:  # any JSON
    if "default" in schema:
        return schema["default"]
    if kind == "string":
        return {"date-time": A_MOMENT, "uuid": AN_ID}.get(schema.get("format", ""), "text")
    if kind in ("integer", "number"):
        return max(1, schema.get("minimum", 1))
    return {"boolean": True, "null": None}.get(str(kind))
