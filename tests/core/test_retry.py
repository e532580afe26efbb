"""When a failed push is tried again: the tables of the contract, and what holds for all inputs."""

from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.retry import (
    QUICK_TRIES,
    SCHEDULES_MS,
    Decision,
    Verdict,
    attempts_max,
    classify,
    next_attempt,
    retry_after_ms,
)
from schema.agent import RetrySchedule
from schema.limits import ATTEMPTS_MAX
from schema.message import DeliveryOptions, Reason
from schema.times import from_ms

NOW = 1_800_000_000_000
MIDDLE = 0.5  # no jitter
AGENT, WEBHOOK = RetrySchedule.AGENT, RetrySchedule.WEBHOOK
S, M, H = 1_000, 60_000, 3_600_000


def after(attempt: int, **changes: object) -> Decision:
    arguments: dict[str, object] = {
        "verdict": Verdict.RETRY,
        "retry_after": None,
        "schedule": AGENT,
        "options": DeliveryOptions(),
        "expires_ms": None,
        "now_ms": NOW,
        "chance": MIDDLE,
    }
    return next_attempt(attempt=attempt, **(arguments | changes))  # type: ignore[arg-type]  # a table of overrides


def delays(**changes: object) -> list[int]:
    """Return every delay until the message ends."""
    found = []
    for attempt in range(1, ATTEMPTS_MAX + 2):
        decision = after(attempt, **changes)
        if decision.deliver_again_ms is None:
            return found
        found.append(decision.deliver_again_ms - NOW)
    raise AssertionError("never ends")


@pytest.mark.parametrize(
    ("codes", "verdict"),
    [
        ((200, 201, 202, 204, 299), Verdict.DELIVERED),
        ((410,), Verdict.GONE),
        ((400, 401, 403, 404, 405, 413, 415, 422), Verdict.REJECTED_RETRY),
        ((408, 425, 429, 500, 502, 503, 504, 599), Verdict.RETRY),
        ((301, 302, 307, 308, 402, 409, 418, 451, 199, 600), Verdict.RETRY),
    ],
)
def test_status_codes_mean(codes: tuple[int, ...], verdict: Verdict) -> None:
    assert {classify(code) for code in codes} == {verdict}


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, None),
        ("", None),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("٣", None),
        ("Wed, 99 Foo 2026 99:99:99 GMT", None),
        ("0", S),
        ("1", S),
        (" 30 ", 30 * S),
        ("3600", H),
        ("3601", H),
        ("9" * 5_000, H),
        (format_datetime(from_ms(NOW + 90 * S), usegmt=True), 90 * S),
        (format_datetime(from_ms(NOW - 90 * S), usegmt=True), S),
        (format_datetime(from_ms(NOW + 48 * H), usegmt=True), H),
    ],
)
def test_retry_after_is_seconds_or_a_date_and_clamped(header: str | None, expected: int | None) -> None:
    assert retry_after_ms(header, now_ms=NOW) == expected


@given(st.text())
def test_retry_after_never_fails_on_junk(header: str) -> None:
    asked = retry_after_ms(header, now_ms=NOW)
    assert asked is None or S <= asked <= H


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, [1 * S, 5 * S, 30 * S, 2 * M, 10 * M]),
        (
            {"schedule": WEBHOOK},
            [5 * S, 5 * M, 30 * M, 2 * H, 5 * H, 10 * H, 14 * H, 20 * H, 24 * H],
        ),
        ({"options": DeliveryOptions(max_retries=2)}, [1 * S, 5 * S]),
        ({"options": DeliveryOptions(max_retries=0)}, []),
        ({"options": DeliveryOptions(max_retries=-3)}, []),
        (
            {"options": DeliveryOptions(max_retries=7)},
            [1 * S, 5 * S, 30 * S, 2 * M, 10 * M, 10 * M, 10 * M],
        ),
        ({"options": DeliveryOptions(retry_policy="none", max_retries=5)}, []),
        ({"options": DeliveryOptions(retry_policy="fixed")}, [1 * S] * 5),
        ({"options": DeliveryOptions(retry_policy="fixed", max_retries=3), "schedule": WEBHOOK}, [5 * S] * 3),
        ({"options": DeliveryOptions(retry_policy="exponential_backoff", max_retries=1)}, [1 * S]),
        ({"scale": 0.01}, [10, 50, 300, 1_200, 6_000]),
        ({"verdict": Verdict.REJECTED_RETRY}, [1 * S, 1 * S]),
        ({"verdict": Verdict.REJECTED_RETRY, "options": DeliveryOptions(max_retries=1)}, [1 * S]),
        ({"retry_after": 20 * S}, [22 * S] * 5),
        ({"retry_after": 1 * S, "schedule": WEBHOOK, "chance": 0.0}, [5 * S] * 9),
    ],
)
def test_delays_follow_the_schedule_and_the_message(changes: dict[str, object], expected: list[int]) -> None:
    assert delays(**changes) == expected


@pytest.mark.parametrize(
    ("attempt", "changes", "reason"),
    [
        (1, {"verdict": Verdict.DELIVERED}, None),
        (1, {"verdict": Verdict.GONE}, Reason.GONE),
        (6, {}, Reason.EXHAUSTED),
        (10, {"schedule": WEBHOOK}, Reason.EXHAUSTED),
        (3, {"verdict": Verdict.REJECTED_RETRY}, Reason.REJECTED),
        (1, {"verdict": Verdict.REJECTED_RETRY, "options": DeliveryOptions(max_retries=0)}, Reason.REJECTED),
        (1, {"options": DeliveryOptions(retry_policy="none")}, Reason.EXHAUSTED),
        (1, {"expires_ms": NOW + 1 * S}, Reason.EXPIRED),
        (1, {"expires_ms": NOW - 1}, Reason.EXPIRED),
        (1, {"verdict": Verdict.REJECTED_RETRY, "expires_ms": NOW + 500}, Reason.EXPIRED),
        (1, {"retry_after": 30 * S, "expires_ms": NOW + 10 * S}, Reason.EXPIRED),
    ],
)
def test_a_message_ends_with_its_reason(
    attempt: int, changes: dict[str, object], reason: Reason | None
) -> None:
    assert after(attempt, **changes) == Decision(None, reason)


OPTIONS = st.builds(
    DeliveryOptions,
    retry_policy=st.sampled_from(["exponential_backoff", "fixed", "none", None]),
    max_retries=st.none() | st.integers(-10, 10**9),
)
CHANCE = st.floats(0, 1, exclude_max=True)


@given(
    schedule=st.sampled_from(RetrySchedule),
    options=OPTIONS,
    verdicts=st.lists(st.sampled_from([Verdict.RETRY, Verdict.REJECTED_RETRY]), min_size=1),
    retry_after=st.none() | st.integers(S, H),
    lifetime=st.none() | st.integers(0, 10**9),
    chance=CHANCE,
)
def test_attempts_are_bounded_and_none_is_due_after_the_expiry(
    schedule: RetrySchedule,
    options: DeliveryOptions,
    verdicts: list[Verdict],
    retry_after: int | None,
    lifetime: int | None,
    chance: float,
) -> None:
    expires = None if lifetime is None else NOW + lifetime
    now, attempt = NOW, 1
    while True:
        decision = next_attempt(
            attempt=attempt,
            verdict=verdicts[attempt % len(verdicts)],
            retry_after=retry_after,
            schedule=schedule,
            options=options,
            expires_ms=expires,
            now_ms=now,
            chance=chance,
        )
        if decision.deliver_again_ms is None:
            break
        assert decision.deliver_again_ms > now
        assert expires is None or decision.deliver_again_ms < expires
        now, attempt = decision.deliver_again_ms, attempt + 1
    assert decision.reason is not None
    assert attempt <= attempts_max(schedule, options) <= ATTEMPTS_MAX


@given(schedule=st.sampled_from(RetrySchedule), step=st.integers(1, 5), chance=CHANCE)
def test_jitter_stays_within_a_fifth(schedule: RetrySchedule, step: int, chance: float) -> None:
    base = SCHEDULES_MS[schedule][step - 1]
    due = after(step, schedule=schedule, chance=chance).deliver_again_ms
    assert due is not None
    assert 0.8 * base - 1 <= due - NOW <= 1.2 * base


@given(asked=st.integers(S, H), chance=CHANCE)
def test_a_retry_is_never_earlier_than_asked_for(asked: int, chance: float) -> None:
    due = after(1, retry_after=asked, chance=chance, scale=0.001).deliver_again_ms
    assert due is not None
    assert due - NOW >= asked


def test_a_refusal_after_other_failures_gets_no_more_than_the_quick_tries() -> None:
    assert after(QUICK_TRIES + 1, verdict=Verdict.REJECTED_RETRY).reason is Reason.REJECTED
