"""Values of a report that its plots share: a curve, and how a number is written. Pure."""

import math

from msgspec import Struct

Cell = str | int | float | None


class Curve(Struct):
    """A plot: how something grows. Every series is a list of (x, y)."""

    name: str
    title: str
    x_label: str
    y_label: str
    series: dict[str, list[tuple[float, float]]]
    log_x: bool = True
    log_y: bool = False


def text_of(value: Cell) -> str:
    """Write a table's cell: whole numbers with thousands, others with three digits that count."""
    match value:
        case None:
            return ""
        case str():
            return value
        case int():
            return f"{value:,}"
    if not math.isfinite(value):
        return str(value)
    if value == 0 or abs(value) >= 99.95:
        return f"{value:,.0f}"
    decimals = 2 - math.floor(math.log10(abs(value)))
    return f"{value:.{min(decimals, 6)}f}"


def short(value: float) -> str:
    """Write a number of an axis in few characters: 250, 1.5k, 20k, 3M."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.4g}{name}"
    return f"{value:.4g}"
