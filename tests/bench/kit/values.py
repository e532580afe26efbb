"""What a plot is made of: a curve, and how a number of an axis is written. Pure."""

from msgspec import Struct


class Curve(Struct):
    """A plot: how something grows. Every series is a list of (x, y)."""

    name: str
    title: str
    x_label: str
    y_label: str
    series: dict[str, list[tuple[float, float]]]
    log_x: bool = True
    log_y: bool = False


def short(value: float) -> str:
    """Write a number of an axis in few characters: 250, 1.5k, 20k, 3M."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= unit:
            return f"{value / unit:.4g}{name}"
    return f"{value:.4g}"
