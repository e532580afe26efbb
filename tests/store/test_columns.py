"""Packing columns: as many values as rows, or a refusal."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from broker.store.columns import NULL, SEPARATOR, Alike, documents, numbers, texts
from broker.store.pool import Pool
from schema.errors import DataFault

plain = st.text(st.characters(blacklist_characters=SEPARATOR + NULL + "\x00", blacklist_categories=["Cs"]))


@given(st.lists(st.none() | plain, max_size=5))
def test_texts_hold_one_value_a_row(values: list[str | None]) -> None:
    packed = texts(values)
    if packed is None:
        assert not any(value is not None for value in values)
    else:
        assert packed.count(SEPARATOR) == len(values)


async def test_the_server_unpacks_what_was_packed(any_pool: Pool) -> None:
    for values in (["a"], [""], ["", None, "x"], [None, ""], ["naïve", '{"a": "\\\\"}', "a,b", "NULL"]):
        assert await any_pool.fetch_value("SELECT unpacked($1)", texts(values)) == values
    numbered = await any_pool.fetch_value("SELECT unpacked($1)::int8[]", numbers([1, None, -3]))
    assert numbered == [1, None, -3]
    packed = documents([Raw(b'{"a": "\\n"}'), None])
    assert await any_pool.fetch_value("SELECT unpacked($1)", packed) == ['{"a": "\\n"}', None]


@pytest.mark.parametrize("values", [[SEPARATOR], ["a", f"b{SEPARATOR}c"], [f"{SEPARATOR}", None]])
def test_a_value_that_would_shift_the_others_is_refused(values: list[str | None]) -> None:
    with pytest.raises(DataFault):
        texts(values)


def test_json_that_is_not_utf8_is_refused() -> None:
    with pytest.raises(DataFault):
        documents([Raw(b'"\xff"')])


def test_columns_without_any_value_are_left_out() -> None:
    assert texts([None, None]) is None
    assert numbers([0, None]) is None
    assert documents([None]) is None
    assert texts([]) is None


def test_what_every_row_says_travels_once() -> None:
    alike = Alike()
    columns = [
        alike.texts(["a", "a"]),
        alike.texts(["", ""]),
        alike.texts(["a", "b"]),
        alike.texts([None, None]),
        alike.numbers([0, 0]),
        alike.numbers([1, None]),
        alike.documents([Raw(b"{}"), Raw(b"{}")]),
        alike.texts([]),
    ]
    assert columns == [None, None, texts(["a", "b"]), None, None, numbers([1, None]), None, None]
    assert alike.values == ["a", "", None, None, "0", None, "{}", None]


@pytest.mark.parametrize("values", [[SEPARATOR], [f"a{SEPARATOR}"] * 2])
def test_what_every_row_says_is_refused_as_what_one_says_is(values: list[str]) -> None:
    with pytest.raises(DataFault):
        Alike().texts(values)
