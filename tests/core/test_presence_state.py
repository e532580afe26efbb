"""Presence: states by silence, and every change told once, at its moment."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.presence import PresenceWatch, StateChange, presence_state
from schema.presence import PresenceState

ONLINE, AWAY, GONE = PresenceState.ONLINE, PresenceState.AWAY, PresenceState.GONE
ONLINE_MS, SILENT_MS = 60_000, 300_000
T = 1_800_000_000_000


@pytest.mark.parametrize(
    ("silence_ms", "state"),
    [
        (-5_000, ONLINE),  # a sign stamped by a clock a little ahead of ours
        (0, ONLINE),
        (ONLINE_MS - 1, ONLINE),
        (ONLINE_MS, AWAY),
        (SILENT_MS - 1, AWAY),
        (SILENT_MS, GONE),
        (T, GONE),
    ],
)
def test_silence_makes_an_agent_away_and_then_gone(silence_ms: int, state: PresenceState) -> None:
    assert state_at(T - silence_ms, T) is state


def test_an_agent_never_heard_of_is_gone_whatever_the_clock_says() -> None:
    assert state_at(0, 1) is GONE


def test_with_equal_limits_nobody_is_ever_away() -> None:
    watch = PresenceWatch(online_ms=1_000, silent_after_ms=1_000)
    watch.establish({"a": T}, T)
    assert told(watch.look(T + 1_000)) == [("a", GONE, 1_000)]


def test_a_first_sign_a_silence_and_a_return_are_told_once_each_at_their_moments() -> None:
    watch = watching()
    assert told(watch.hear({"a": T}, T + 500)) == [("a", ONLINE, 0)]
    assert watch.hear({"a": T + 30_000}, T + 30_000) == []
    assert watch.look(T + 89_999) == []
    assert told(watch.look(T + 91_000)) == [("a", AWAY, 90_000)]
    assert watch.look(T + 92_000) == []
    assert told(watch.look(T + 331_000)) == [("a", GONE, 330_000)]
    assert len(watch) == 0
    assert told(watch.hear({"a": T + 400_000}, T + 400_000)) == [("a", ONLINE, 400_000)]


def test_an_absence_nobody_looked_at_is_told_with_the_return() -> None:
    watch = watching()
    watch.hear({"a": T, "b": T}, T)
    assert told(watch.hear({"a": T + 61_000, "b": T + 301_000}, T + 301_000)) == [
        ("a", AWAY, 60_000),
        ("b", AWAY, 60_000),
        ("b", GONE, 300_000),
        ("b", ONLINE, 301_000),
    ]


def test_a_flap_is_told_in_full_and_the_next_fall_comes_in_time() -> None:
    watch = watching()
    watch.hear({"a": T}, T)
    assert told(watch.look(T + 60_000)) == [("a", AWAY, 60_000)]
    assert told(watch.hear({"a": T + 60_500}, T + 61_000)) == [("a", ONLINE, 60_500)]
    # Not only when it would have been gone without its return.
    assert told(watch.look(T + 120_500)) == [("a", AWAY, 120_500)]
    assert told(watch.look(T + 360_500)) == [("a", GONE, 360_500)]
    assert watch.look(T + 10**7) == []


def test_a_sign_noted_late_corrects_what_was_told() -> None:
    watch = watching()
    watch.hear({"a": T}, T)
    watch.look(T + 60_000)
    assert told(watch.hear({"a": T + 58_000}, T + 61_000)) == [("a", ONLINE, 58_000)]


def test_an_old_or_repeated_sign_changes_nothing() -> None:
    watch = watching()
    watch.hear({"a": T}, T)
    assert watch.hear({"a": T}, T + 1) == []
    assert watch.hear({"a": T - 10_000}, T + 1) == []
    assert told(watch.look(T + SILENT_MS))[-1] == ("a", GONE, SILENT_MS)


def test_who_came_and_went_before_anybody_looked_is_told_of_all_the_same() -> None:
    watch = watching()
    assert told(watch.hear({"a": T}, T + 400_000) + watch.look(T + 400_000)) == [
        ("a", ONLINE, 0),
        ("a", AWAY, 60_000),
        ("a", GONE, 300_000),
    ]


def test_a_late_sign_of_an_agent_that_is_away_moves_only_its_end() -> None:
    watch = watching()
    watch.hear({"a": T}, T)
    watch.look(T + 100_000)
    assert watch.hear({"a": T + 10_000}, T + 100_000) == []
    assert watch.look(T + 309_999) == []
    assert told(watch.look(T + 310_000)) == [("a", GONE, 310_000)]


def test_what_is_established_is_no_news() -> None:
    watch = watching()
    watch.establish({"here": T, "away": T - 70_000, "gone": T - 400_000}, T)
    assert watch.look(T) == []
    assert told(watch.hear(dict.fromkeys(("here", "away", "gone"), T + 1_000), T + 1_000)) == [
        ("away", ONLINE, 1_000),
        ("gone", ONLINE, 1_000),
    ]


def test_agents_beyond_the_bound_are_not_followed() -> None:
    watch = PresenceWatch(online_ms=ONLINE_MS, silent_after_ms=SILENT_MS, agents_max=1)
    assert [change.agent_id for change in watch.hear({"a": T, "b": T}, T)] == ["a"]
    watch.look(T + SILENT_MS)
    assert [change.agent_id for change in watch.hear({"b": T + SILENT_MS}, T + SILENT_MS)] == ["b"]


# Steps: (ms that pass, agent that is heard of or None: only a look)
steps = st.lists(
    st.tuples(st.integers(0, 400_000), st.none() | st.sampled_from(["a", "b", "c"])), max_size=40
)


@given(steps)
def test_what_is_told_is_a_path_that_ends_where_each_agent_is(walk: list[tuple[int, str | None]]) -> None:
    watch, now_ms, last = watching(), T, {}
    states: dict[str, PresenceState] = {}
    moments: dict[str, int] = {}
    for passed_ms, heard in walk:
        now_ms += passed_ms
        changes = []
        if heard is not None:
            last[heard] = now_ms
            changes += watch.hear({heard: now_ms}, now_ms)
        changes += watch.look(now_ms)
        for change in changes:
            assert states.get(change.agent_id, GONE) is not change.state  # never the same twice
            assert moments.get(change.agent_id, 0) <= change.at_ms <= now_ms
            states[change.agent_id], moments[change.agent_id] = change.state, change.at_ms
        assert {agent: states.get(agent, GONE) for agent in last} == {
            agent: state_at(at_ms, now_ms) for agent, at_ms in last.items()
        }
    assert len(watch._falls) <= 2 * len(walk) + 3


def watching() -> PresenceWatch:
    return PresenceWatch(online_ms=ONLINE_MS, silent_after_ms=SILENT_MS)


def state_at(heartbeat_ms: int, now_ms: int) -> PresenceState:
    return presence_state(heartbeat_ms, now_ms, online_ms=ONLINE_MS, silent_after_ms=SILENT_MS)


def told(changes: list[StateChange]) -> list[tuple[str, PresenceState, int]]:
    return [(change.agent_id, change.state, change.at_ms - T) for change in changes]
