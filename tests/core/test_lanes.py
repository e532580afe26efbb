"""The weighted pick: high first, low never starved, nothing lost."""

from collections import Counter, deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from broker.core.lanes import WEIGHTS, LaneWeights
from schema.message import LANES, Lane

H, N, L = LANES


def queues(high: int, normal: int, low: int) -> dict[Lane, deque[int]]:
    return {lane: deque(range(count)) for lane, count in zip(LANES, (high, normal, low), strict=True)}


@pytest.mark.parametrize(
    ("waiting", "room", "expected"),
    [
        ((0, 0, 0), 10, {}),
        ((5, 5, 5), 0, {}),
        ((100, 100, 100), 21, {H: 16, N: 4, L: 1}),
        ((100, 100, 100), 42, {H: 32, N: 8, L: 2}),
        ((100, 100, 100), 10, {H: 10}),
        ((0, 0, 100), 50, {L: 50}),
        ((2, 0, 100), 50, {H: 2, L: 48}),
        ((100, 0, 100), 34, {H: 32, L: 2}),
        ((3, 3, 3), 100, {H: 3, N: 3, L: 3}),
    ],
)
def test_a_batch_is_shared_by_weight(
    waiting: tuple[int, int, int], room: int, expected: dict[Lane, int]
) -> None:
    taken = LaneWeights().take(queues(*waiting), room)
    assert Counter(lane for lane, _ in taken) == expected


def test_high_comes_first_in_a_batch() -> None:
    taken = LaneWeights().take(queues(4, 4, 4), 12)
    assert [lane for lane, _ in taken[:5]] == [H, H, H, H, N]


def test_batches_of_one_do_not_starve_low() -> None:
    weights, waiting = LaneWeights(), queues(1_000, 1_000, 1_000)
    taken = [weights.take(waiting, 1)[0][0] for _ in range(210)]
    assert Counter(taken) == {H: 160, N: 40, L: 10}


@pytest.mark.parametrize("room", [64, 128])
@pytest.mark.parametrize("sizes", [(1, 1, 64), (1, 24, 24), (1, 32, 32), (1, 64, 1), (300, 300, 300)])
def test_lanes_of_other_sizes_have_their_share_of_items(sizes: tuple[int, int, int], room: int) -> None:
    weights, taken = LaneWeights(), Counter[Lane]()
    waiting = {lane: deque([size] * 1_000) for lane, size in zip(LANES, sizes, strict=True)}
    while taken.total() < 210:
        batch = weights.take(waiting, room, size=lambda item: item)
        assert len(batch) == 1 or sum(item for _, item in batch) <= room
        taken += Counter(lane for lane, _ in batch)
    assert taken[L] >= 9
    assert taken[N] >= 36


def test_a_weight_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError):
        LaneWeights({H: 1, N: 1, L: 0})


@given(
    waiting=st.tuples(*[st.integers(0, 60)] * 3), rooms=st.lists(st.integers(1, 40), min_size=1, max_size=80)
)
def test_order_is_kept_nothing_is_lost_and_room_is_used(
    waiting: tuple[int, int, int], rooms: list[int]
) -> None:
    weights, queued = LaneWeights(), queues(*waiting)
    left, seen = sum(waiting), dict.fromkeys(LANES, 0)
    for room in rooms:
        taken = weights.take(queued, room)
        assert len(taken) == min(room, left)
        left -= len(taken)
        for lane, item in taken:
            assert item == seen[lane]
            seen[lane] += 1
    assert sum(map(len, queued.values())) == left


@given(rooms=st.lists(st.integers(1, 64), min_size=5, max_size=60), lane=st.sampled_from(LANES))
def test_a_lane_waits_for_at_most_two_rounds_of_the_others(rooms: list[int], lane: Lane) -> None:
    weights, queued = LaneWeights(), {each: deque(range(10_000)) for each in LANES}
    others = sum(weight for each, weight in WEIGHTS.items() if each is not lane)
    waited = 0
    for room in rooms:
        for taken, _ in weights.take(queued, room):
            waited = 0 if taken is lane else waited + 1
            assert waited <= 2 * others
