"""Axes of a plot: which numbers are written beside them, and where a value lies along them. Pure."""

import math
from collections.abc import Sequence

from msgspec import Struct

TICKS = 5
"""About so many intervals on a linear axis: more crowd, fewer make one guess."""


class Axis(Struct, frozen=True):
    """From `low` at pixel `start` to `high` at pixel `stop`, which is the smaller one for y."""

    low: float
    high: float
    start: float
    stop: float
    ticks: tuple[float, ...]
    log: bool

    def at(self, value: float) -> float:
        """Return the pixel of a value; a log axis shows what is not above 0 at its low end."""
        if self.log:
            if value <= 0:
                return self.start
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.stop - self.start)


def linear(values: Sequence[float], start: float, stop: float) -> Axis:
    """Return an axis from 0 (or below, where values are) to the next round number over the greatest value."""
    least, most = min([0.0, *values]), max([0.0, *values])
    if least == most:
        most = 1.0
    step = _round_step((most - least) / TICKS)
    first, last = math.floor(least / step), math.ceil(most / step - 1e-9)
    ticks = tuple(number * step for number in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], start, stop, ticks, log=False)


def logarithmic(values: Sequence[float], start: float, stop: float, *, snug: bool) -> Axis:
    """Return an axis over the positive values: ticks at powers of ten, at 1, 2 and 5 where those are few.

    `snug` ends it at the outermost values (for x), else it ends at ticks.
    """
    positive = [value for value in values if value > 0] or [1.0]
    least, most = min(positive), max(positive)
    first, last = math.floor(math.log10(least) + 1e-9), math.ceil(math.log10(most) - 1e-9)
    if last == first:
        last += 1
    steps = (1, 2, 5) if last - first <= 2 else (1,)
    marks = [step * 10.0**power for power in range(first, last + 1) for step in steps]
    if snug and most > least:
        low, high = least, most
    else:
        low = max(mark for mark in marks if mark <= least * (1 + 1e-9))
        high = min(mark for mark in marks if mark >= most * (1 - 1e-9) and mark > low)
    ticks = tuple(mark for mark in marks if low * (1 - 1e-9) <= mark <= high * (1 + 1e-9))
    return Axis(low, high, start, stop, ticks, log=True)


def _round_step(rough: float) -> float:
    """Return the least of 1, 2, 2.5, 5 and 10 times a power of ten that is not under `rough`."""
    power: float = 10.0 ** math.floor(math.log10(rough))
    return next(step * power for step in (1, 2, 2.5, 5, 10) if step * power >= rough * (1 - 1e-9))


def spread(wanted: Sequence[float], *, gap: float, low: float, high: float) -> list[float]:
    """Move labels apart so that neighbours keep `gap`, in the order they are in, staying between the bounds.

    Bounds win over nothing: more labels than fit run over `low`.
    """
    order = sorted(range(len(wanted)), key=lambda index: wanted[index])
    placed = [0.0] * len(wanted)
    floor = low
    for index in order:
        placed[index] = max(wanted[index], floor)
        floor = placed[index] + gap
    ceiling = high
    for index in reversed(order):
        placed[index] = min(placed[index], ceiling)
        ceiling = placed[index] - gap
    return placed
