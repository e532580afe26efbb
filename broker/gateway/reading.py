"""Turns what came over the wire into typed requests, and collects everything that is wrong with it.

The normal case is one decode. Only when that fails is the request read again field by field, so that the
caller hears about all faults at once. Rules beyond types are functions `check(request, faults)` run on
what could be read; a field that already has a fault gets no second one.
"""

import re
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar, get_args, get_origin

import msgspec

from broker.gateway.json_bounds import check_escapes, check_json
from schema import limits
from schema.errors import Fault, Malformed, Rejected

T = TypeVar("T", bound=msgspec.Struct)

_AT = re.compile(r" - at `\$(.*)`$", re.DOTALL)


class Faults:
    """Everything wrong with one request so far."""

    __slots__ = ("_error", "_found")

    def __init__(self) -> None:
        self._found: dict[str, str] = {}
        self._error: Rejected | None = None

    def add(self, field: str, message: str) -> None:
        """Note a fault, unless its field has one already."""
        self._found.setdefault(field, message)

    def add_error(self, field: str, error: Rejected) -> None:
        """Note a fault that has a code of its own, which is told when nothing else is wrong."""
        if field not in self._found:
            self._error = error
            self._found[field] = error.message

    @property
    def is_empty(self) -> bool:
        return not self._found

    def raise_if_any(self) -> None:
        """Raises: Rejected with every fault, if there is one."""
        if not self._found:
            return
        faults = tuple(Fault(field, message) for field, message in self._found.items())
        first = faults[0]
        if len(faults) > 1:
            message = f"{len(faults)} fields are wrong; the first: {first.field}: {first.message}"
            raise Rejected(message, field=first.field, faults=faults)
        if self._error is not None:
            raise self._error.at(first.field)
        raise Rejected(f"{first.field}: {first.message}", field=first.field, faults=faults)


Check = Callable[[T, Faults], None]


class BodyReader(Generic[T]):
    """Reads JSON bodies of one type."""

    def __init__(self, type_: type[T], check: Check[T] | None = None) -> None:
        self._type = type_
        self._decode = msgspec.json.Decoder(type_).decode
        self._check = check
        self._fields = msgspec.structs.fields(type_)

    def read(self, raw: bytes) -> T:
        """Return the request in these bytes, checked.

        Raises: Malformed when it is not JSON; Rejected with all faults otherwise.
        """
        try:
            request = self.decoded(raw)
        except msgspec.ValidationError:
            faults = Faults()
            request = self._salvage(raw, faults)
            return self._checked(request, faults)
        return self.checked(request)

    def decoded(self, raw: bytes) -> T:
        """Return the request in these bytes, its rules unchecked.

        Raises: msgspec.ValidationError where `read` finds faults; else as `read`.
        """
        try:
            request = self._decode(raw)
        except msgspec.ValidationError:
            raise
        except msgspec.DecodeError as error:
            raise _malformed(raw, error) from None
        except UnicodeDecodeError:
            raise Malformed("the body is not UTF-8") from None
        except RecursionError:
            raise Rejected(f"nested deeper than {limits.JSON_DEPTH_MAX}") from None
        check_json(raw)
        return request

    def checked(self, request: T) -> T:
        """Return a request of well-formed JSON, checked. Raises: Rejected with all faults."""
        return request if self._check is None else self._checked(request, Faults())

    def _checked(self, request: T, faults: Faults) -> T:
        if self._check is not None:
            self._check(request, faults)
        faults.raise_if_any()
        return request

    def _salvage(self, raw: bytes, faults: Faults) -> T:
        """Read each field by itself; what cannot be read gets its default, or an empty text."""
        check_json(raw)  # The first decode stopped at what was wrong: nothing has looked at the rest yet.
        try:
            parts = msgspec.json.decode(raw, type=dict[str, msgspec.Raw])
        except msgspec.ValidationError:
            raise Rejected("the body must be a JSON object") from None
        except msgspec.DecodeError as error:
            raise _malformed(raw, error) from None
        return _salvage(
            self._type, self._fields, parts, faults, lambda part, kind: msgspec.json.decode(part, type=kind)
        )


class QueryReader(Generic[T]):
    """Reads the query string of one operation."""

    def __init__(self, type_: type[T], check: Check[T] | None = None) -> None:
        self._type = type_
        self._check = check
        self._fields = msgspec.structs.fields(type_)
        self._repeatable = frozenset(f.encode_name for f in self._fields if get_origin(f.type) is tuple)
        self._no_texts = frozenset(
            f.encode_name for f in self._fields if str not in (f.type, *get_args(f.type))
        )
        self._empty: T | None = None

    def read(self, parameters: Mapping[str, str | list[str]]) -> T:
        """Return the query in these parameters, checked. Unknown ones are ignored.

        Raises: Rejected with all faults.
        """
        if not parameters:
            if self._empty is None:
                self._empty = self._read({})
            return self._empty
        return self._read({name: self._shaped(name, value) for name, value in parameters.items()})

    def _read(self, parameters: Mapping[str, str | list[str]]) -> T:
        faults = Faults()
        for name, value in parameters.items():
            if any("\x00" in text for text in ([value] if isinstance(value, str) else value)):
                faults.add(name, "holds a NUL character")
            elif name in self._no_texts and isinstance(value, str) and value.lower() == "null":
                faults.add(
                    name, "is not null in a query; leave it out"
                )  # which the conversion would take for None
        try:
            query = msgspec.convert(parameters, self._type, strict=False)
        except msgspec.ValidationError:
            query = _salvage(
                self._type,
                self._fields,
                parameters,
                faults,
                lambda part, kind: msgspec.convert(part, kind, strict=False),
            )
        if self._check is not None:
            self._check(query, faults)
        faults.raise_if_any()
        return query

    def _shaped(self, name: str, value: str | list[str]) -> str | list[str]:
        """Make a list of a repeatable parameter; of another, repeated by mistake, the last one counts."""
        if name in self._repeatable:
            return [value] if isinstance(value, str) else value
        return value if isinstance(value, str) else value[-1]


def _salvage(
    type_: type[T],
    fields: tuple[msgspec.structs.FieldInfo, ...],
    parts: Mapping[str, Any],  # raw JSON or query text, whichever `read_part` reads
    faults: Faults,
    read_part: Callable[[Any, Any], Any],  # any part, into whatever type its field has
) -> T:
    values: dict[str, Any] = {}  # as many types as the struct has fields
    for field in fields:
        if field.encode_name in parts:
            try:
                values[field.name] = read_part(parts[field.encode_name], field.type)
                continue
            except msgspec.ValidationError as error:
                message = str(error)
                inside = _AT.search(message)
                faults.add(field.encode_name + (inside[1] if inside else ""), _AT.sub("", message))
        elif field.required:
            faults.add(field.encode_name, "is required")
        if field.required:
            values[field.name] = ""
    return type_(**values)


def _malformed(raw: bytes, error: msgspec.DecodeError) -> Malformed:
    if not raw.strip():
        return Malformed("the body is empty; it must be a JSON object")
    if b"\\u" in raw:
        # The decoder calls an unpaired surrogate malformed too; it is well-formed JSON that nobody can store.
        check_escapes(raw)
    return Malformed(f"the body is not JSON: {error}")
