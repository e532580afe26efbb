"""Loops: what trips, what never does, and that memory stays bounded."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Raw

from broker.core.loops import (
    LoopRules,
    LoopWatch,
    RootWatch,
    Sign,
    alternations,
    moments,
    written,
)
from schema.ids import new_id
from schema.message import Envelope


def said(content: str = "hello", **more: object) -> Envelope:
    return Envelope(id=new_id(), content=Raw(f'{{"text":"{content}"}}'.encode()), **more)  # type: ignore[arg-type]


def signs(watch: LoopWatch, steps: Sequence[tuple[str, str, str, int]]) -> list[Sign | None]:
    """`steps`: from, to, what, when."""
    return [watch.see(said(what), sender, to, now_ms) for sender, to, what, now_ms in steps]


def test_the_sixth_time_the_same_within_a_minute_is_a_loop() -> None:
    steps = [("a", "b", "again", n * 1_000) for n in range(6)]
    assert signs(LoopWatch(LoopRules()), steps) == [None] * 5 + [Sign.REPEAT]


def test_pings_say_the_same_every_time_and_are_no_loop_until_they_are_answered_by_pings() -> None:
    watch = LoopWatch(LoopRules())
    one_way = [watch.see(said(message_type="ping"), "a", "b", n * 1_000) for n in range(30)]
    assert set(one_way) == {None}
    to_and_fro = [watch.see(said(message_type="ping"), *way, 40_000) for way in [("b", "a"), ("a", "b")] * 12]
    assert Sign.ALTERNATION in to_and_fro


def test_the_same_once_in_a_while_is_none() -> None:
    steps = [("a", "b", "tick", n * 12_000) for n in range(100)]
    assert set(signs(LoopWatch(LoopRules()), steps)) == {None}


@pytest.mark.parametrize("other", ["recipient", "sender", "body", "type"])
def test_what_differs_in_anything_is_not_the_same(other: str) -> None:
    watch = LoopWatch(LoopRules(alternations=0))
    for number in range(20):
        message = said(f"n{number}" if other == "body" else "same")
        if other == "type":
            message.message_type = "t" * (number + 1)
        sender = f"a{number}" if other == "sender" else "a"
        recipient = f"b{number}" if other == "recipient" else "b"
        assert watch.see(message, sender, recipient, 0) is None


def test_the_same_message_published_again_counts_once() -> None:
    watch, message = LoopWatch(LoopRules()), said()
    assert {watch.see(message, "a", "b", 0) for _ in range(50)} == {None}


def test_twenty_turns_within_a_minute_are_a_loop() -> None:
    steps = [("a", "b", f"{n}", n * 1_000) if n % 2 else ("b", "a", f"{n}", n * 1_000) for n in range(21)]
    assert signs(LoopWatch(LoopRules()), steps) == [None] * 20 + [Sign.ALTERNATION]


def test_a_slow_conversation_is_none() -> None:
    steps = [("a", "b", f"{n}", n * 4_000) if n % 2 else ("b", "a", f"{n}", n * 4_000) for n in range(200)]
    assert set(signs(LoopWatch(LoopRules()), steps)) == {None}


def test_many_messages_one_way_are_no_alternation() -> None:
    steps = [("a", "b", f"{n}", n) for n in range(1_000)] + [("b", "a", "thanks", 1_000)]
    assert set(signs(LoopWatch(LoopRules()), steps)) == {None}


@pytest.mark.parametrize(
    ("rules", "expected"),
    [(LoopRules(repeats=0, alternations=0), None), (LoopRules(repeats=0), None), (LoopRules(), Sign.REPEAT)],
)
def test_a_limit_of_nought_is_off(rules: LoopRules, expected: Sign | None) -> None:
    watch = LoopWatch(rules)
    assert rules.is_on is (rules != LoopRules(repeats=0, alternations=0))
    assert [watch.see(said(), "a", "b", 0) for _ in range(6)][-1] is expected


def test_after_a_reset_a_pair_begins_anew() -> None:
    watch = LoopWatch(LoopRules())
    assert signs(watch, [("a", "b", "again", 0)] * 6)[-1] is Sign.REPEAT
    watch.forget("a", "b")
    assert signs(watch, [("a", "b", "again", 0)] * 5) == [None] * 5


def test_what_is_remembered_is_bounded_and_a_loop_is_found_all_the_same() -> None:
    watch = LoopWatch(LoopRules(remembered=100, alternations=0))
    found = []
    for number in range(2_000):
        watch.see(said(f"n{number}"), "x", f"y{number}", 0)
        if number % 50 == 0:
            found.append(watch.see(said("again"), "a", "b", 0))
    assert Sign.REPEAT in found
    assert len(watch._bodies._young) <= 100
    assert len(watch._bodies._former) <= 100


def test_one_way_is_suspicious_when_so_much_goes_it_and_nothing_comes_back() -> None:
    watch = LoopWatch(LoopRules())
    seen = []
    for number in range(12):
        watch.see(said(f"{number}"), "a", "b", 0)
        seen.append(watch.is_suspicious("a", "b"))
    assert seen == [False] * 9 + [True] * 3
    watch.see(said("back"), "b", "a", 0)
    assert not watch.is_suspicious("a", "b")


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 1_000))))
def test_two_processes_together_count_the_turns_one_would(messages: list[tuple[bool, int]]) -> None:
    in_order = sorted({at: way for way, at in messages}.items())
    ways = [way for _, way in in_order]
    expected = sum(one != other for one, other in pairwise(ways))
    there = [at for at, way in in_order if way]
    back = [at for at, way in in_order if not way]
    assert alternations(there, back, since_ms=0) == expected


@given(st.lists(st.integers(0, 2**45), max_size=32))
def test_moments_are_read_as_they_were_written(at_ms: list[int]) -> None:
    assert moments(written(at_ms)) == at_ms


@pytest.mark.parametrize("text", [None, b"", b"x", b"-1 nonsense"])
def test_what_is_no_moment_is_none(text: bytes | None) -> None:
    assert moments(text) == []


def test_a_root_has_so_many_messages_and_no_more() -> None:
    watch = RootWatch(200)
    assert [watch.see("r") for _ in range(202)] == [False] * 200 + [True] * 2
    assert not watch.see("other")
    assert not RootWatch(0).see("r")


def test_watchers_that_tell_each_other_hold_the_bound_together() -> None:
    """Whatever they have not told yet is what they may exceed it by: a quarter of the bound each, at most."""
    watchers, total, passed = [RootWatch(200) for _ in range(3)], 0, 0
    for number in range(1_000):
        watcher = watchers[number % 3]
        passed += not watcher.see("r")
        if count := watcher.untold("r"):
            watcher.tell("r", count)
            total += count
            watcher.told("r", total)
    assert 200 <= passed <= 200 + 3 * 50
