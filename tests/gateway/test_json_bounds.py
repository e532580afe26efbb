"""What JSON text the gateway refuses before it can poison anything behind it."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.gateway import json_bounds
from broker.gateway.json_bounds import check_escapes, check_json, is_plain
from schema.errors import Malformed, Rejected

_JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(_JSON)
def test_ordinary_json_passes(value: object) -> None:
    raw = msgspec.json.encode({"content": value})
    if b"\\u0000" not in raw:
        check_json(raw)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"a":' + b"[" * 31 + b"]" * 31 + b"}",
        b"[" + b'{"a":[]},' * 1_999 + b"1]",
        b'{"a": "' + b"[{:" * 10_000 + b'"}',
        rb'{"a": "\\u0000 \\ud800"}',
        rb'{"a": "\ud83d\ude00\ud83d\ude00"}',
        b'{"a": 1e308, "b": 1e-300, "c": "1e99999"}',
        b'{"a": "01a2016f-4b8f-758f-a3d1-12918915e999", "b": "at 1e999"}',
        b'{"a":' + b"1" * 210 + b', "b":' + b"1" * 209 + b"e99}",
        '{"a": "é😀"}'.encode(),
    ],
    ids=range(9),
)
def test_what_only_looks_bad_passes(raw: bytes) -> None:
    check_json(raw)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b'{"a":' + b"[" * 32 + b"]" * 32 + b"}", "deeper than 32"),
        (b'{"a":' + b"[" * 120_000 + b"]" * 120_000 + b"}", "deeper than 32"),
        (b"{" + b",".join(b'"%d":1' % n for n in range(2_001)) + b"}", "more than 2000 keys"),
        (rb'{"a": "x\u0000"}', "NUL"),
        (rb'{"\u0000": 1}', "NUL"),
        (rb'{"a": "\\\u0000"}', "NUL"),
        (rb'{"a": "\ud800"}', "surrogate"),
        (rb'{"a": "\ude00"}', "surrogate"),
        (rb'{"a": "\ud83d\u0041"}', "surrogate"),
        (rb'{"a": "\ud83d \ude00"}', "surrogate"),
        (rb'{"a": "\ud83d\ude00\ude00"}', "surrogate"),
        (rb'{"a": "\uD83D\uD83D\uDE00"}', "surrogate"),
        (b'{"a": 1e999}', "out of range"),
        (b'{"a": -1E+400}', "out of range"),
        (b'{"a":[0,-12.5e309]}', "out of range"),
        (b'{"a":[7E999]}', "out of range"),
        (b'{"a":\n7e999}', "out of range"),
        (b'{"a": 1e-20000}', "out of range"),
        (b'{"a": ' + b"1" * 5_000 + b"}", "out of range"),
        (b'{"a": 0.' + b"1" * 5_000 + b"}", "out of range"),
        (b'{"a":' + b"9" * 210 + b"e99}", "out of range"),
        (b'{"a":-' + b"9" * 210 + b".5E+99}", "out of range"),
    ],
)
def test_what_nobody_can_store_is_refused(raw: bytes, says: str) -> None:
    with pytest.raises(Rejected, match=says):
        check_json(raw)


def test_bytes_that_are_not_utf8_are_malformed() -> None:
    with pytest.raises(Malformed, match="UTF-8"):
        check_json(b'{"a": "\xff"}')


_NUMBERISH = st.text('01289eE+-. ab"\\u:,[]{}', max_size=80) | st.sampled_from(
    ("1e999", "-2.5E+400", "01a2016f-4b8f-758f-a3d1-12918915e999", "1" * 400, "\\u0000", "\\ud83d\\ude00")
)


@given(st.lists(_NUMBERISH, min_size=1, max_size=8).map("".join), st.data())
def test_what_is_plain_holds_nothing_that_is_refused_and_no_piece_of_it_does(
    text: str, data: st.DataObject
) -> None:
    raw = text.encode()
    begin = data.draw(st.integers(0, len(raw)))
    piece = raw[begin : data.draw(st.integers(begin, len(raw)))]
    if is_plain(raw):
        assert not _refused(raw)
        assert not _refused(piece)


def _refused(raw: bytes) -> bool:
    """Tell whether one of the exact looks finds anything."""
    try:
        check_escapes(raw)
        if json_bounds._BIG_EXPONENT.search(raw) or json_bounds._LONG_NUMBER in raw.translate(
            json_bounds._SHAPE
        ):
            json_bounds._check_numbers(raw)
    except Rejected:
        return True
    return False
