"""Amounts: exact, or refused."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.budget import fault_of, plain

FITTING = st.decimals(min_value=0, max_value=Decimal("99999999999999.999999"), places=6)


@pytest.mark.parametrize(
    ("text", "faulty"),
    [
        ("0", False),
        ("-0.0", False),
        ("99999999999999.999999", False),
        ("0.0000010000", False),
        ("1e13", False),
        ("1e14", True),
        ("1e400", True),
        ("1e-6", False),
        ("1e-7", True),
        ("1e-999999", True),
        ("-0.01", True),
        ("NaN", True),
        ("sNaN", True),
        ("Infinity", True),
        ("0e99999", False),
    ],
)
def test_what_the_column_cannot_hold_digit_for_digit_is_refused(text: str, faulty: bool) -> None:
    assert (fault_of(Decimal(text)) is not None) == faulty


@given(FITTING)
def test_plain_is_the_same_amount_without_exponent_or_padding(amount: Decimal) -> None:
    assert fault_of(amount) is None
    text = str(plain(amount))
    assert Decimal(text) == amount
    assert "E" not in text
    assert "." not in text or not text.endswith("0")


@pytest.mark.parametrize(
    ("text", "shown"), [("15000.000000", "15000"), ("1.5E+4", "15000"), ("12.50", "12.5"), ("0E+3", "0")]
)
def test_amounts_as_people_write_them(text: str, shown: str) -> None:
    assert str(plain(Decimal(text))) == shown
