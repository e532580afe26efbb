"""What is stopped: every switch against every message it is about, and none it is not."""

import pytest

from broker.core.barriers import NOTHING, Barriers, Stop, Switches
from schema.trip import Trip

PAIR = frozenset({("a", "b"), ("b", "a")})


@pytest.mark.parametrize(
    ("switches", "message", "expected"),
    [
        (Switches(agents=frozenset("a")), ("a", "b", "r"), Stop.KILLED),
        (Switches(agents=frozenset("a")), ("b", "a", "r"), Stop.KILLED),
        (Switches(agents=frozenset("a")), (None, "a", "r"), Stop.KILLED),
        (Switches(agents=frozenset("a")), ("b", "c", "r"), None),
        (Switches(pairs=PAIR), ("a", "b", "r"), Stop.KILLED),
        (Switches(pairs=PAIR), ("b", "a", "r"), Stop.KILLED),
        (Switches(pairs=PAIR), ("a", "c", "r"), None),
        (Switches(pairs=PAIR), (None, "a", "r"), None),
        (Switches(roots=frozenset("r")), ("a", "b", "r"), Stop.KILLED),
        (Switches(roots=frozenset("r")), ("a", "b", "s"), None),
        (NOTHING, ("a", "b", "r"), None),
    ],
)
def test_switches(switches: Switches, message: tuple[str | None, str, str], expected: Stop | None) -> None:
    barriers = Barriers()
    barriers.switch(switches)
    assert barriers.stops(*message) is expected
    assert barriers.is_any is (switches is not NOTHING)


def trip(*, both: bool = False) -> Trip:
    return Trip(id="t", sign="repeat", from_agent_id="a", to_agent_id="b", both=both, at_ms=0)


def test_a_trip_stops_the_direction_that_tripped() -> None:
    barriers = Barriers()
    barriers.trip([trip()])
    assert barriers.stops("a", "b", "r") is Stop.LOOP
    assert barriers.stops("b", "a", "r") is None
    assert barriers.stops(None, "b", "r") is None
    barriers.trip([])
    assert barriers.stops("a", "b", "r") is None
    assert not barriers.is_any


def test_a_trip_of_both_directions_stops_both() -> None:
    barriers = Barriers()
    barriers.trip([trip(both=True)])
    assert (barriers.stops("a", "b", "r"), barriers.stops("b", "a", "r")) == (Stop.LOOP, Stop.LOOP)


def test_a_pair_counts_as_one_switch() -> None:
    assert Switches(agents=frozenset("cd"), pairs=PAIR, roots=frozenset("r")).count == 4


def test_a_kill_switch_comes_before_a_trip() -> None:
    barriers = Barriers()
    barriers.trip([trip()])
    barriers.switch(Switches(agents=frozenset("b")))
    assert barriers.stops("a", "b", "r") is Stop.KILLED


def test_a_full_inbox_is_a_barrier_too() -> None:
    barriers = Barriers()
    barriers.fill(["a"])
    assert barriers.is_any
    assert barriers.stops("b", "a", "r") is None  # who asks looks into `full`
    barriers.fill([])
    assert not barriers.is_any
