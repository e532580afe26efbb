"""Quotas, shedding, rates: what the rules say, whatever the order things come in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.admission import (
    UNSEEN_MESSAGES,
    FairShare,
    Held,
    InboxWatch,
    Quota,
    Rates,
    Shedder,
    slack,
)
from schema.agent import Agent


def agent(**more: int | None) -> Agent:
    return Agent(id="a", name="a", **more)  # type: ignore[arg-type]  # quotas only


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, Quota(100, 1_000)),
        ({"inbox_messages_max": 5}, Quota(5, 1_000)),
        ({"inbox_bytes_max": 7}, Quota(100, 7)),
        ({"inbox_messages_max": 0, "inbox_bytes_max": 0}, Quota(0, 0)),
    ],
)
def test_an_agents_own_quota_comes_before_the_deployments(
    own: dict[str, int | None], expected: Quota
) -> None:
    assert Quota(100, 1_000).of(agent(**own)) == expected


def test_a_look_is_due_when_the_quota_may_be_reached_and_not_before() -> None:
    inbox = InboxWatch(Quota(messages=1_000))
    assert [inbox.let_in(1) for _ in range(UNSEEN_MESSAGES + 1)] == [False] * UNSEEN_MESSAGES + [True]
    inbox.looking()
    inbox.looked(Held(messages=10))
    assert not any(inbox.let_in(1) for _ in range(990))
    assert inbox.let_in(1)


def test_bytes_make_a_look_due_as_well() -> None:
    inbox = InboxWatch(Quota(bytes=1_000))
    assert not inbox.let_in(1_000)
    assert inbox.let_in(1)


def test_a_full_inbox_takes_what_was_accepted_up_to_its_slack_and_then_no_more() -> None:
    inbox = InboxWatch(Quota(messages=100))
    inbox.looking()
    inbox.looked(Held(messages=100))
    assert inbox.is_full
    took = 0
    while True:
        inbox.let_in(1)
        if not inbox.takes_more:
            break
        took += 1
    assert 100 + took + 1 == slack(100, 16) == 116


def test_a_full_inbox_reopens_when_a_tenth_is_free() -> None:
    inbox = InboxWatch(Quota(messages=100))
    states = []
    for depth in (99, 100, 95, 91, 90, 89):
        inbox.looking()
        inbox.looked(Held(messages=depth))
        states.append(inbox.is_full)
    assert states == [False, True, True, True, True, False]


def test_without_a_quota_nothing_is_ever_full() -> None:
    inbox = InboxWatch(Quota())
    for _ in range(UNSEEN_MESSAGES + 1):
        inbox.let_in(1)
    inbox.looking()
    inbox.looked(Held(10**9, 10**15))
    assert not inbox.is_full
    assert not inbox.let_in(10**9)


@given(
    st.integers(1, 500),
    st.lists(st.one_of(st.integers(1, 50).map(lambda n: ("in", n)), st.just(("look", 0)),
                       st.integers(1, 50).map(lambda n: ("out", n)))),
)  # fmt: skip
def test_the_bound_is_never_below_what_the_inbox_holds(quota: int, steps: list[tuple[str, int]]) -> None:
    inbox, inside = InboxWatch(Quota(messages=quota)), 0
    inbox.looking()
    inbox.looked(Held(0))
    for step, count in steps:
        if step == "look":
            inbox.looking()
            inbox.looked(Held(inside))
        elif step == "out":
            inside = max(0, inside - count)
        else:
            for _ in range(count):
                is_due = inbox.let_in(1)
                if is_due and not inbox.is_full:
                    inbox.looking()
                    inbox.looked(Held(inside))
                if inbox.takes_more:
                    inside += 1
    assert inside <= slack(quota, 16)


@pytest.mark.parametrize(
    ("ratios", "shedding"),
    [
        ([0.5, 0.69, 0.70], [False, False, True]),
        ([0.71, 0.69, 0.66, 0.65, 0.649, 0.69], [True, True, True, True, False, False]),
        ([0.0], [False]),
    ],
)
def test_shedding_begins_at_70_percent_and_ends_below_65(ratios: list[float], shedding: list[bool]) -> None:
    shedder, seen = Shedder(), []
    for ratio in ratios:
        before = shedder.is_shedding
        assert shedder.take(ratio) is (shedder.is_shedding is not before)
        seen.append(shedder.is_shedding)
    assert seen == shedding


def test_a_bucket_gives_its_burst_then_its_rate() -> None:
    rates = Rates(per_s=10, burst=5, buckets_max=10)
    assert [rates.take("a", 0) for _ in range(5)] == [0.0] * 5
    assert rates.take("a", 0) == pytest.approx(100)
    assert rates.take("a", 99) == pytest.approx(1)
    assert rates.take("a", 100) == 0.0
    assert rates.take("b", 0) == 0.0


def test_a_batch_larger_than_the_bucket_passes_once_it_is_full_and_is_paid_for_afterwards() -> None:
    rates = Rates(per_s=10, burst=5, buckets_max=10)
    assert rates.take("a", 0, 20) == 0.0
    assert rates.take("a", 0, 1) == pytest.approx(1_600)


def test_no_rate_is_no_bound() -> None:
    rates = Rates(per_s=0, burst=0, buckets_max=10)
    assert not rates.is_on


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 3)), max_size=200))
def test_no_more_passes_than_burst_and_rate_allow(steps: list[tuple[int, int]]) -> None:
    rates, now_ms, passed = Rates(per_s=100, burst=10, buckets_max=10), 0, 0
    for pause_ms, count in steps:
        now_ms += pause_ms
        if rates.take("a", now_ms, count) == 0.0:
            passed += count
    assert passed <= 10 + now_ms / 10 + 1e-6


def test_buckets_are_bounded() -> None:
    rates = Rates(per_s=1, burst=1, buckets_max=3)
    for number in range(10):
        rates.take(number, 0)
    assert len(rates._full_ms) <= 3


def test_a_sender_within_its_share_is_never_over_it() -> None:
    shares = FairShare(per_s=100, share_s=2, senders_max=10)
    assert not any(shares.is_over("a", n * 10.0) for n in range(1_000))


def test_a_flood_is_over_its_share_until_its_bucket_is_full_again() -> None:
    shares = FairShare(per_s=100, share_s=2, senders_max=10)
    flood = [shares.is_over("a", 0.0) for _ in range(1_000)]
    assert flood == [False] * 200 + [True] * 800
    assert shares.is_over("a", 1_900.0)  # most of it has come back, not all
    assert not shares.is_over("b", 0.0)
    assert not shares.is_over("a", 10_000.0)


@given(
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(1, 40), st.integers(0, 2_000)), min_size=1, max_size=20
    )
)
def test_messages_counted_together_count_as_one_by_one(said: list[tuple[str, int, int]]) -> None:
    together = FairShare(per_s=125, share_s=0.25, senders_max=10)  # every 8 ms: sums of these are exact
    singly = FairShare(per_s=125, share_s=0.25, senders_max=10)
    now_ms = 0.0
    for sender, count, pause_ms in said:
        now_ms += pause_ms
        within = together.within(sender, now_ms, count)
        assert [singly.is_over(sender, now_ms) for _ in range(count)] == [
            number >= within for number in range(count)
        ]


def test_shares_are_bounded() -> None:
    shares = FairShare(per_s=1, share_s=1, senders_max=3)
    for number in range(10):
        shares.is_over(str(number), 0.0)
    assert len(shares._full_ms) <= 3
