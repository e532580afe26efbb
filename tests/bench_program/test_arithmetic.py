"""The pure parts: percentiles, medians, the open-loop schedule, ids as borders, kinds of keys, /proc."""

import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.bench.figures import median, per_second, percentile, summarise
from broker.bench.leftovers import Picture, growth, kind_of
from broker.bench.pace import Schedule
from broker.bench.payload import Fleet, compose, first_id_at
from broker.bench.processes import Process, parse_stat, read_table, role_of, tree
from broker.bench.report import Run, cores_busy
from schema.codec import decode_envelope, encode
from schema.ids import new_id, parse_id


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([7], 0.5, 7),
        ([1, 2], 0.5, 1),
        (list(range(1, 101)), 0.5, 50),
        (list(range(1, 101)), 0.99, 99),
        (list(range(1, 101)), 1.0, 100),
        (list(range(1, 1001)), 0.999, 999),
    ],
)
def test_percentile_is_the_nearest_rank(values: list[int], share: float, expected: int) -> None:
    assert percentile(values, share) == expected


def test_percentile_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="no values"):
        percentile([], 0.5)


@given(st.lists(st.integers(0, 10_000_000), min_size=1))
def test_percentiles_rise_and_end_at_the_greatest(latencies_us: list[int]) -> None:
    found = summarise(latencies_us)
    assert found.p50_ms <= found.p90_ms <= found.p99_ms <= found.p999_ms <= found.max_ms
    assert found.max_ms == max(latencies_us) / 1000
    assert found.count == len(latencies_us)


@pytest.mark.parametrize(("values", "expected"), [([], 0), ([3.0], 3), ([9, 1, 5], 5), ([4, 1, 2, 3], 2.5)])
def test_median_is_the_middle(values: list[float], expected: float) -> None:
    assert median(values) == expected


def test_cores_busy_are_all_parts_of_the_middle_run() -> None:
    runs = [
        Run(messages=1, per_second=rate, published_per_second=0, cpu_us={"worker": 40.0, "valkey": 10.0})
        for rate in (20_000, 10_000, 30_000)
    ]
    assert cores_busy(runs) == pytest.approx(1.0)


def test_rate_of_no_time_is_nothing() -> None:
    assert per_second(10, 0) == 0
    assert per_second(10, 2_000_000_000) == 5


@given(st.integers(0, 2**60), st.integers(1, 100_000), st.integers(0, 1_000_000))
def test_message_is_due_exactly_from_its_time_on(start_ns: int, rate: int, number: int) -> None:
    schedule = Schedule(start_ns, rate=rate)
    due_ns = schedule.due_ns(number)
    assert schedule.due_by(due_ns - 1) <= number
    assert schedule.due_by(due_ns) >= number + 1
    assert due_ns - start_ns == number * 1_000_000_000 // rate


def test_a_thousand_a_second_are_a_thousand_after_a_second() -> None:
    schedule = Schedule(5, rate=1000)
    assert [schedule.due_by(now) for now in (4, 5, 1_000_004, 1_000_005, 1_000_000_005)] == [0, 1, 1, 2, 1001]


def test_half_of_the_messages_are_named_and_half_are_routed_by_capability() -> None:
    fleet = Fleet(agents=[new_id() for _ in range(3)], skills=[["bench", "a"], ["bench", "b"]])
    messages = [decode_envelope(encode(compose(number, 1, fleet))) for number in range(12)]
    assert [message.to_agent_id for message in messages[::2]] == [*fleet.agents, *fleet.agents]
    assert [message.requirements for message in messages[1::2]] == [*fleet.skills] * 3
    assert all(message.to_agent_id is None for message in messages[1::2])


def test_messages_have_350_to_400_bytes() -> None:
    fleet = Fleet(agents=[new_id()], skills=[["bench", "skill-1"]])
    sizes = [len(encode(compose(number, 10**15, fleet))) for number in range(2)]
    assert all(350 <= size <= 400 for size in sizes), sizes


def test_ids_made_now_lie_between_their_borders() -> None:
    low = first_id_at(time.time_ns() // 1_000_000)
    made = [new_id() for _ in range(100)]
    high = first_id_at(time.time_ns() // 1_000_000 + 1)
    assert parse_id(low) == low
    assert all(low <= one < high for one in made)


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("ab:{12}:ledger", "ab:{s}:ledger"),
        ("ab:{0}:inbox:0190b6a0-0000-7000-8000-000000000001:high", "ab:{s}:inbox:<agent>:high"),
        ("ab:{0}:seen:14234", "ab:{s}:seen:<window>"),
        ("ab:{0}:parked:normal:a,b", "ab:{s}:parked:<signature>"),
    ],
)
def test_kind_of_a_key_leaves_out_what_is_particular(key: str, kind: str) -> None:
    assert kind_of(key) == kind


def test_growth_names_only_what_grew() -> None:
    before = Picture(keys={}, bytes={"a": 10, "b": 10})
    after = Picture(keys={}, bytes={"a": 10, "b": 15, "c": 1})
    assert growth(before, after) == {"b": 5, "c": 1}


STAT = "42 (a (b) c) S 7 42 42 0 -1 4194560 1 2 3 4 100 20 3 4 20 0 1 0 5 6 7"


def test_stat_line_of_a_process_with_a_wild_name_is_read() -> None:
    assert parse_stat(STAT) == Process(pid=42, parent=7, name="a (b) c", ticks=127)


def test_own_process_is_in_the_table_below_its_parent() -> None:
    table = read_table()
    assert table[os.getpid()].parent == os.getppid()
    assert os.getpid() in tree(table, os.getppid())


def test_tree_lists_parents_before_children_and_no_strangers() -> None:
    table = {
        pid: Process(pid=pid, parent=parent, name="", ticks=0)
        for pid, parent in ((5, 3), (3, 1), (4, 1), (9, 2), (1, 0))
    }
    assert tree(table, 1) == [1, 3, 4, 5]
    assert tree(table, 77) == []


@pytest.mark.parametrize(
    ("name", "command", "role"),
    [
        ("valkey-server", ["valkey-server", "*:1"], "valkey"),
        ("redis-server", [], "valkey"),
        ("postgres", ["postgres: io worker"], "postgres"),
        ("python", ["python", "-m", "broker.cli", "worker", "--trades", "route"], "worker"),
        ("agent-broker", ["python", "/bin/agent-broker", "gateway"], "gateway"),
        ("bash", ["bash"], None),
    ],
)
def test_role_comes_from_name_and_command_line(name: str, command: list[str], role: str | None) -> None:
    assert role_of(name, command) == role
