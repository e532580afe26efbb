"""Memory given back after a backlog: when it is asked for, and that asking helps."""

import asyncio
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from workers.relief import MUCH, give_back, trim


async def trims_after(held: list[int], *, rest_s: float = 0) -> list[int]:
    """Let these numbers of messages be held, one at each look; return before which looks it trimmed."""
    looks: Iterator[int] = iter(held)
    trimmed: list[int] = []
    seen = 0

    def look() -> int:
        nonlocal seen
        seen += 1
        now = next(looks, None)
        if now is None:
            raise asyncio.CancelledError
        return now

    with suppress(asyncio.CancelledError):
        await give_back(look, trim=lambda: trimmed.append(seen), look_s=0, rest_s=rest_s)
    return trimmed


@pytest.mark.parametrize(
    ("held", "after"),
    [
        pytest.param([0, 5 * MUCH, 2 * MUCH, MUCH // 2, 0], [4], id="once, when a tenth is left"),
        pytest.param([MUCH, 0, 0, 0], [2], id="not again for nothing"),
        pytest.param([MUCH, 0, MUCH, 0], [2, 4], id="again after the next"),
        pytest.param([MUCH - 1, 0, MUCH // 2, 0], [], id="never for little"),
        pytest.param([MUCH, 2 * MUCH, MUCH], [], id="not while it is still there"),
    ],
)
async def test_memory_is_given_back_when_much_has_become_little(held: list[int], after: list[int]) -> None:
    assert await trims_after(held) == after


async def test_memory_is_not_given_back_at_every_turn_of_a_load_that_comes_and_goes() -> None:
    assert await trims_after([MUCH, 0, MUCH, 0], rest_s=3_600) == [2]


async def test_what_went_while_it_rested_is_given_back_afterwards() -> None:
    """The second backlog goes at once, and nothing is held at any of the many looks after it."""
    assert await trims_after([MUCH, 0, MUCH] + [0] * 10_000, rest_s=0.001) != [2]


@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc, and asks glibc")
def test_trimming_gives_back_what_lies_between_objects_that_live() -> None:
    """Every fiftieth of 60 MB lives on, so that nothing at the end of the heap can be cut off by itself."""
    blocks = [bytes(600 + number % 300) for number in range(80_000)]
    kept = blocks[::50]
    before = resident_bytes()
    del blocks
    assert trim()
    assert resident_bytes() < before - 30 * 2**20
    assert len(kept) == 1_600


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
