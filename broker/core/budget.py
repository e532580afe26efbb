"""Amounts of money: exact decimals, from what a caller wrote to what others read. Pure.

Nothing is ever rounded: an amount that its column cannot hold digit for digit is refused.
"""

from decimal import Decimal

from schema.limits import BUDGET_DECIMALS_MAX, BUDGET_WHOLE_DIGITS_MAX


def fault_of(amount: Decimal) -> str | None:
    """Return what is wrong with an amount; None when nothing is."""
    if not amount.is_finite():
        return "must be a number"
    if amount < 0:
        return "must not be negative"
    if amount and amount.adjusted() >= BUDGET_WHOLE_DIGITS_MAX:
        return f"must have at most {BUDGET_WHOLE_DIGITS_MAX} digits before the point"
    if amount and _last_place(amount) < -BUDGET_DECIMALS_MAX:
        return f"must have at most {BUDGET_DECIMALS_MAX} digits after the point"
    return None


def plain(amount: Decimal) -> Decimal:
    """Return the same amount written without an exponent and without zeros at its end: 15000, 12.5.

    Of a faultless amount, whose 20 digits at most the default context holds.
    """
    return Decimal(format(amount.normalize(), "f")) if amount else Decimal(0)


def _last_place(amount: Decimal) -> int:
    """Return the place of the last digit that is no zero: -2 for 0.250, 3 for 15000."""
    _, digits, exponent = amount.as_tuple()
    assert isinstance(exponent, int)
    return exponent + next(zeros for zeros, digit in enumerate(reversed(digits)) if digit)
