"""JSON Schema of the types on the wire, as the gateway really reads and writes them.

msgspec's own generator does not know three things: that its encoder writes decimals as numbers, that `Raw`
fields are objects, that every field of a reply is there whether it has a default or not. So the types are
walked here, in two modes: ASKED for what clients send (lenient, only what must be there is required), SHOWN
for what the gateway answers. What fields mean stands in `words`, unless the type says it itself by `Meta`.
"""

from collections.abc import Callable
from enum import Enum
from typing import Any, Final

import msgspec
from msgspec import UNSET, Struct, inspect

from broker.gateway.openapi.words import word_for

Schema = dict[str, Any]  # JSON Schema is JSON of any shape
REF: Final = "#/components/schemas/"
DECIMAL_TEXT: Final = r"^-?[0-9]+(\.[0-9]+)?$"


class Mode(Enum):
    """Whose JSON a schema describes."""

    ASKED = "asked"
    SHOWN = "shown"


class Schemas:
    """The schemas of one document. `components` holds one per struct and mode, `examples` work on them."""

    def __init__(self) -> None:
        self.components: dict[str, Schema] = {}
        self.owners: dict[str, tuple[str, ...]] = {}
        """Of each component, the names of its type and that type's bases: where words look for its fields."""
        self._named: dict[tuple[type, Mode], str] = {}

    def of(self, type_: Any, mode: Mode) -> Schema:  # any type a wire format may have
        """Return the schema of a type; structs become components and references."""
        return self._schema(inspect.type_info(type_), mode)

    def fields(self, type_: type[Struct], mode: Mode) -> dict[str, Schema]:
        """Return the schema of each field, as query parameters need them: none of them can be null."""
        info = inspect.type_info(type_)
        assert isinstance(info, inspect.StructType)
        return {f.encode_name: self._field(type_, f, mode, without_null=True) for f in info.fields}

    def resolved(self, schema: Schema) -> Schema:
        """Return the schema behind a reference."""
        reference = schema.get("$ref")
        return schema if reference is None else self.components[reference.removeprefix(REF)]

    # --- structs ------------------------------------------------------------------------------------------

    def _struct(self, info: inspect.StructType, mode: Mode) -> Schema:
        key = (info.cls, mode)
        name = self._named.get(key)
        if name is None:
            name = info.cls.__name__
            if name in self.components:
                name += "Request" if mode is Mode.ASKED else "Reply"
            assert name not in self.components, f"two types are called {name}"
            self._named[key] = name
            self.owners[name] = owners_of(info.cls)
            self.components[name] = {}  # a struct may hold itself
            self.components[name] = self._object(info, mode)
        return {"$ref": REF + name}

    def _object(self, info: inspect.StructType, mode: Mode) -> Schema:
        omits = info.cls.__struct_config__.omit_defaults
        schema: Schema = {"type": "object"}
        if about := _about(info.cls):
            schema["description"] = about
        schema["properties"] = {f.encode_name: self._field(info.cls, f, mode) for f in info.fields}
        always = mode is Mode.SHOWN and not omits
        required = [f.encode_name for f in info.fields if f.required or (always and _has_default(f))]
        if required:
            schema["required"] = required
        return schema

    def _field(self, owner: type, field: inspect.Field, mode: Mode, *, without_null: bool = False) -> Schema:
        word = word_for(owners_of(owner), field.encode_name)
        inner, nullable = _not_null(field.type)
        schema = self._schema(inner, mode)
        if word is not None:
            schema = _with_word(schema, word.text, word.asked if mode is Mode.ASKED else word.shown)
        if (
            mode is Mode.ASKED
            and not without_null
            and isinstance(inner, inspect.RawType)
            and _null_default(field)
        ):
            nullable = True
        if nullable and not without_null:
            schema = _nullable(schema)
        if mode is Mode.ASKED and (default := _default(field)) is not UNSET and default is not None:
            schema["default"] = default
        return schema

    # --- everything else ----------------------------------------------------------------------------------

    def _schema(self, info: inspect.Type, mode: Mode) -> Schema:
        match info:
            case inspect.StructType():
                return self._struct(info, mode)
            case inspect.Metadata():
                schema = self._schema(info.type, mode)
                return schema | (info.extra_json_schema or {})
            case inspect.UnionType():
                inner, nullable = _not_null(info)
                if nullable:
                    return _nullable(self._schema(inner, mode))
                return {"anyOf": [self._schema(one, mode) for one in info.types]}
            case inspect.ListType() | inspect.VarTupleType() | inspect.SetType() | inspect.FrozenSetType():
                bounds = _given(minItems=info.min_length, maxItems=info.max_length)
                return {"type": "array", "items": self._schema(info.item_type, mode), **bounds}
            case inspect.DictType():
                return {"type": "object", "additionalProperties": self._schema(info.value_type, mode)}
            case inspect.EnumType():
                return {"type": "string", "enum": [member.value for member in info.cls]}
            case inspect.LiteralType():
                return {"type": "string", "enum": list(info.values)}
            case inspect.IntType() | inspect.FloatType():
                bounds = _given(
                    minimum=info.ge, maximum=info.le, exclusiveMinimum=info.gt, exclusiveMaximum=info.lt
                )
                return {"type": "integer" if isinstance(info, inspect.IntType) else "number", **bounds}
            case inspect.StrType():
                bounds = _given(minLength=info.min_length, maxLength=info.max_length, pattern=info.pattern)
                return {"type": "string", **bounds}
            case inspect.DecimalType():
                exact = {"type": "number", "description": "An exact decimal."}
                return exact if mode is Mode.SHOWN else _decimal_asked()
            case _:
                return dict(_PLAIN[type(info)])


_PLAIN: Final[dict[type[inspect.Type], Schema]] = {
    inspect.AnyType: {},
    inspect.RawType: {},
    inspect.NoneType: {"type": "null"},
    inspect.BoolType: {"type": "boolean"},
    inspect.DateTimeType: {"type": "string", "format": "date-time"},
    inspect.DateType: {"type": "string", "format": "date"},
    inspect.UUIDType: {"type": "string", "format": "uuid"},
}


def _decimal_asked() -> Schema:
    """A number, or its digits as text: some languages have no other way to send an exact decimal."""
    return {"anyOf": [{"type": "number"}, {"type": "string", "pattern": DECIMAL_TEXT}]}


def _with_word(schema: Schema, text: str, facets: Schema) -> Schema:
    """Return the schema as its word completes it. What a word says of the kind of a value is more exact than
    what the type does; of bounds, the type knows better."""
    if "$ref" in schema:
        return {"description": text, **schema}
    exact: Schema = {name: facets[name] for name in ("anyOf", "items", "type") if name in facets}
    merged: Schema = {"description": text, **facets, **schema, **exact}
    if "anyOf" in facets:
        merged.pop("type", None)
    return merged


def owners_of(cls: type) -> tuple[str, ...]:
    """Return the names of a struct and its bases, nearest first."""
    return tuple(base.__name__ for base in cls.__mro__ if issubclass(base, Struct) and base is not Struct)


def _about(cls: type) -> str:
    return " ".join((cls.__doc__ or "").split())


def _given(**bounds: int | float | str | None) -> Schema:
    return {name: value for name, value in bounds.items() if value is not None}


def _not_null(info: inspect.Type) -> tuple[inspect.Type, bool]:
    """Return the type without its null, and whether it had one."""
    if not isinstance(info, inspect.UnionType) or not info.includes_none:
        return info, False
    rest = tuple(one for one in info.types if not isinstance(one, inspect.NoneType))
    return (rest[0] if len(rest) == 1 else inspect.UnionType(rest)), True


def _nullable(schema: Schema) -> Schema:
    """Return the schema, null allowed too."""
    if isinstance(schema.get("type"), list):
        return schema if "null" in schema["type"] else {**schema, "type": [*schema["type"], "null"]}
    if isinstance(schema.get("type"), str):
        nullable: Schema = {**schema, "type": [schema["type"], "null"]}
        if "enum" in schema:
            nullable["enum"] = [*schema["enum"], None]
        return nullable
    if "$ref" in schema:
        said = {"description": schema["description"]} if "description" in schema else {}
        return {**said, "anyOf": [{"$ref": schema["$ref"]}, {"type": "null"}]}
    if "anyOf" in schema:
        return {**schema, "anyOf": [*schema["anyOf"], {"type": "null"}]}
    return schema  # says nothing of its type: null is allowed as it is


def _has_default(field: inspect.Field) -> bool:
    """Tell whether a field that is not given has a value all the same: UNSET is none."""
    return field.default is not msgspec.NODEFAULT or field.default_factory is not msgspec.NODEFAULT


def _null_default(field: inspect.Field) -> bool:
    """Tell whether a raw field is JSON null where it is left out: then it may be sent as null, too."""
    made = field.default_factory
    return made is not msgspec.NODEFAULT and bytes(made()) == b"null"


def _default(field: inspect.Field) -> Any:  # as many types as fields have
    """Return the default as JSON; UNSET where there is none worth showing."""
    default = field.default
    if default is msgspec.NODEFAULT:
        factory: Callable[[], Any] | Any = field.default_factory  # Any: NODEFAULT has no type of its own
        if factory is msgspec.NODEFAULT:
            return UNSET
        default = factory()
    if default is UNSET or default is None or default == () or default == []:
        return UNSET
    return msgspec.json.decode(default) if isinstance(default, msgspec.Raw) else msgspec.to_builtins(default)
