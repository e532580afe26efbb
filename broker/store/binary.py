"""Values, arrays and rows in PostgreSQL's binary format: what `COPY .. (FORMAT binary)` takes.

A field is its length and its bytes, in a row and in an array alike. Rows are put together from few and large
pieces: what has a fixed size is packed in one go, what repeats is packed once and kept.

Source: PostgreSQL documentation, COPY, "Binary Format"; array_recv in arrayfuncs.c for arrays.

Raises, everywhere: ValueError or struct.error where a value does not fit its type. A NUL in a text is left to
the server.
"""

from binascii import unhexlify
from collections.abc import Sequence
from functools import lru_cache
from itertools import chain, repeat
from struct import Struct
from typing import Final

from msgspec import Raw

NULL: Final = b"\xff\xff\xff\xff"
UUID_TYPE: Final = 2950
TEXT_TYPE: Final = 25
MOMENT_TYPE: Final = 1184
"""Object ids of types, built into every PostgreSQL."""
_EPOCH_US: Final = 946_684_800_000_000
"""Moments are counted from 2000-01-01; in microseconds since 1970."""
_BEGIN: Final = b"PGCOPY\n\xff\r\n\x00" + bytes(8)
_END: Final = b"\xff\xff"

_UUID_CHARS: Final = 36
_HYPHENS: Final = (8, 13, 18, 23)

_length = Struct(">i").pack
_smallint = Struct(">ih").pack
_integer = Struct(">ii").pack
_moment = Struct(">iq").pack
_array = Struct(">iiiIii").pack
_DOCUMENT_HEADS: Final = [Struct(">ib").pack(size + 1, 1) for size in range(2_048)]


def uuids(values: Sequence[str]) -> list[bytes]:
    """Return the 16 bytes of each UUID, by unpacking all of them at once."""
    joined, count = "".join(values), len(values)
    hyphens = "-" * count
    if len(joined) != count * _UUID_CHARS or any(joined[at::_UUID_CHARS] != hyphens for at in _HYPHENS):
        raise ValueError("not a UUID")
    unpacked = unhexlify(joined.replace("-", ""))
    return [unpacked[at : at + 16] for at in range(0, len(unpacked), 16)]


@lru_cache(65_536)
def known_id(value: str | None) -> bytes:
    """Pack the UUID of one of many rows: an agent's."""
    return NULL if value is None else _length(16) + uuids((value,))[0]


def text(value: str | None) -> bytes:
    """Pack a text."""
    if value is None:
        return NULL
    encoded = value.encode()
    return _length(len(encoded)) + encoded


word = lru_cache(4_096)(text)
"""Pack a text of which there are few."""


def smallint(value: int) -> bytes:
    """Pack an int2."""
    return _smallint(2, value)


@lru_cache(4_096)
def integer(value: int | None) -> bytes:
    """Pack an int4."""
    return NULL if value is None else _integer(4, value)


def moment(at_us: int) -> bytes:
    """Pack a timestamptz from microseconds since 1970."""
    return _moment(8, at_us - _EPOCH_US)


def document_head(size: int) -> bytes:
    """Return what goes before so many bytes of JSON to make them a jsonb."""
    return _DOCUMENT_HEADS[size] if size < len(_DOCUMENT_HEADS) else _length(size + 1) + b"\x01"


def document(value: Raw) -> bytes:
    """Pack JSON as it is, for a jsonb."""
    return document_head(len(value)) + bytes(value)


def moments(values_us: Sequence[int]) -> list[bytes]:
    """Pack timestamps from microseconds since 1970, all at once."""
    layout = _moments(len(values_us))
    joined = layout.pack(*chain.from_iterable(zip(repeat(8), [at_us - _EPOCH_US for at_us in values_us])))
    return [joined[at : at + 12] for at in range(0, len(joined), 12)]


@lru_cache(1_024)
def _moments(count: int) -> Struct:
    return Struct(">" + "iq" * count)


def array(element_type: int, fields: Sequence[bytes]) -> bytes:
    """Pack fields, at least one, some of them perhaps null, as an array."""
    joined = b"".join(fields)
    return _array(20 + len(joined), 1, 1, element_type, len(fields), 1) + joined


def table(columns: Sequence[Sequence[bytes | Raw]]) -> bytes:
    """Return rows as a COPY takes them. The first column begins with the number of fields in a row."""
    return b"".join((_BEGIN, *chain.from_iterable(zip(*columns, strict=True)), _END))
