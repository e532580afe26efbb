"""The circuit breaker: when it opens, how it probes, and that it never locks."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from broker.core.breaker import OPEN_MS_MAX, OPEN_MS_MIN, PROBE_LOST_MS, Breaker, BreakerState

NOW = 1_800_000_000_000
TOTAL_MS = 15_000


def opened(at_ms: int = NOW) -> Breaker:
    breaker = Breaker()
    for _ in range(5):
        breaker.failed(at_ms)
    return breaker


@pytest.mark.parametrize(
    ("results", "every_ms", "state"),
    [
        ("xxxx", 1, BreakerState.CLOSED),
        ("xxxxx", 1, BreakerState.OPEN),
        ("xxxxx", 3_600_000, BreakerState.OPEN),
        ("xxxx.xxxx", 1, BreakerState.CLOSED),
        ("x." * 9 + "x", 1, BreakerState.CLOSED),  # 10 of 19: too few to judge
        ("x." * 9 + "x.x", 1, BreakerState.OPEN),
        ("x.." * 20, 1, BreakerState.CLOSED),
        ("x." * 30, 4_000, BreakerState.CLOSED),  # 20 results take longer than the window
        ("." * 100 + "xxxx." * 2 + "xx", 1, BreakerState.CLOSED),
        ("." * 100 + "xxxx." * 4, 1, BreakerState.CLOSED),  # a success does not open it
        ("." * 100 + "xxxx." * 4 + "x", 1, BreakerState.OPEN),
    ],
)
def test_it_opens_after_five_in_a_row_or_half_of_twenty(
    results: str, every_ms: int, state: BreakerState
) -> None:
    breaker = Breaker()
    for number, result in enumerate(results):
        now = NOW + number * every_ms
        breaker.sent(now, within_ms=TOTAL_MS)
        (breaker.failed if result == "x" else breaker.succeeded)(now)
        if breaker.state is BreakerState.OPEN:
            break
    assert breaker.state is state


def test_a_long_healthy_stretch_forgets_old_failures() -> None:
    breaker = Breaker()
    for result in "x" + "." * 40 + "xxxx":
        (breaker.failed if result == "x" else breaker.succeeded)(NOW)
    assert breaker.state is BreakerState.CLOSED


def test_open_time_grows_with_every_failed_probe_and_starts_anew_after_a_success() -> None:
    breaker, now, open_times = opened(), NOW, []
    for _ in range(6):
        open_times.append(breaker.retry_at_ms - now)
        assert not breaker.may_send(breaker.retry_at_ms - 1)
        now = breaker.retry_at_ms
        assert breaker.may_send(now)
        breaker.sent(now, within_ms=TOTAL_MS)
        breaker.failed(now)
    assert open_times == [5_000, 10_000, 20_000, 40_000, 60_000, 60_000]
    now = breaker.retry_at_ms
    breaker.sent(now, within_ms=TOTAL_MS)
    breaker.succeeded(now)
    assert breaker.state is BreakerState.CLOSED
    assert breaker.may_send(now)
    for _ in range(5):
        breaker.failed(now)
    assert breaker.retry_at_ms - now == OPEN_MS_MIN


def test_only_one_probe_is_out_and_a_lost_one_does_not_lock() -> None:
    breaker = opened()
    now = breaker.retry_at_ms
    breaker.sent(now, within_ms=TOTAL_MS)
    assert breaker.state is BreakerState.HALF_OPEN
    assert not breaker.may_send(now)
    assert not breaker.may_send(now + TOTAL_MS + PROBE_LOST_MS - 1)
    assert breaker.may_send(now + TOTAL_MS + PROBE_LOST_MS)


def test_one_known_to_have_failed_gets_a_probe_and_no_more() -> None:
    breaker = Breaker()
    breaker.distrust(NOW)
    assert breaker.may_send(NOW)
    breaker.sent(NOW, within_ms=TOTAL_MS)
    assert not breaker.may_send(NOW + TOTAL_MS)
    breaker.failed(NOW + TOTAL_MS)
    assert breaker.retry_at_ms == NOW + TOTAL_MS + 2 * OPEN_MS_MIN


def test_late_results_of_earlier_requests_change_nothing_while_open() -> None:
    breaker = opened()
    retry_at = breaker.retry_at_ms
    breaker.succeeded(NOW + 1)
    breaker.failed(NOW + 2)
    assert (breaker.state, breaker.retry_at_ms) == (BreakerState.OPEN, retry_at)


def test_scale_shrinks_all_times() -> None:
    breaker = Breaker(scale=0.01)
    for _ in range(5):
        breaker.failed(NOW)
    assert breaker.retry_at_ms == NOW + 50
    breaker.sent(NOW + 50, within_ms=TOTAL_MS)
    breaker.failed(NOW + 60)
    assert breaker.retry_at_ms == NOW + 60 + 100


class AnyHistory(RuleBasedStateMachine):
    """Whatever happens in whatever order, as long as `may_send` is asked before sending."""

    @initialize()
    def start(self) -> None:
        self.breaker = Breaker()
        self.now = NOW
        self.out = 0
        self.probes: list[int] = []

    @rule(step=st.integers(0, 30_000))
    def time_passes(self, step: int) -> None:
        self.now += step

    @rule()
    def sends_if_it_may(self) -> None:
        if not self.breaker.may_send(self.now):
            return
        if self.breaker.state is not BreakerState.CLOSED:
            self.probes.append(self.now)
        self.breaker.sent(self.now, within_ms=TOTAL_MS)
        self.out += 1

    @rule(count=st.integers(1, 12), succeeds=st.booleans())
    def results_come(self, count: int, succeeds: bool) -> None:
        for _ in range(count):
            (self.breaker.succeeded if succeeds else self.breaker.failed)(self.now)
        if self.breaker.state is not BreakerState.HALF_OPEN:
            self.probes.clear()

    @invariant()
    def nothing_goes_before_the_retry_time(self) -> None:
        if self.breaker.state is not BreakerState.CLOSED:
            assert self.breaker.may_send(self.now) == (self.now >= self.breaker.retry_at_ms)
            assert not self.breaker.may_send(self.breaker.retry_at_ms - 1)

    @invariant()
    def it_never_locks(self) -> None:
        assert self.breaker.may_send(self.now + OPEN_MS_MAX)

    @invariant()
    def one_probe_at_a_time(self) -> None:
        assert all(
            later - earlier >= TOTAL_MS + PROBE_LOST_MS
            for earlier, later in zip(self.probes, self.probes[1:], strict=False)
        )


TestAnyHistory = AnyHistory.TestCase
TestAnyHistory.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
