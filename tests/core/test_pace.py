"""A pace lets through its rate, a tenth of a second's worth at once, and no more."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.pace import BURST_MS, Pace

NOW = 1_800_000_000_000


@given(st.integers(1, 1_000), st.lists(st.integers(0, 500), min_size=1, max_size=200))
def test_in_no_stretch_goes_more_than_the_rate_and_a_burst(rate: int, steps: list[int]) -> None:
    pace, now, taken = Pace(rate), NOW, []
    for step in steps:
        now += step
        while pace.take(now):
            taken.append(now)
    burst = max(1.0, rate * BURST_MS / 1000)
    for first in range(0, len(taken), 7):
        for last in range(first, len(taken), 5):
            stretch_ms = taken[last] - taken[first]
            assert last - first + 1 <= burst + rate * stretch_ms / 1000 + 1e-6


@pytest.mark.parametrize("rate", [1, 3, 50, 1_000])
def test_whoever_comes_back_when_told_loses_none_of_the_rate(rate: int) -> None:
    pace, now, taken = Pace(rate), NOW, 0
    while now < NOW + 10_000:
        while pace.take(now):
            taken += 1
        now = pace.ready_ms(now)
    assert taken >= 10 * rate * 0.99


def test_a_clock_that_goes_back_gives_nothing() -> None:
    pace = Pace(1)
    assert pace.take(NOW)
    assert not pace.take(NOW - 60_000)
    assert not pace.take(NOW - 59_500)
    assert pace.take(NOW - 58_900)
