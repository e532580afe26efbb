"""How steady the machine itself is: the same small piece of work, over and over, on every core while nothing
else runs.

CPU time is what counts, not the clock: what is slow here is the machine (a host that gives the virtual
machine less, a processor that clocks down), not a neighbour that was scheduled. Latencies of any program on
it have a tail that is at least as long as these slow moments; without this figure one looks for them in
one's own code.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from itertools import groupby
from typing import Final

from msgspec import Struct
from msgspec.json import decode

from broker.bench.figures import median

WORK: Final = 5_000
"""Additions in one piece of work: a few tenths of a millisecond, far more than reading the clock."""
WINDOW_S: Final = 0.01
SLOW: Final = 2.0
"""A window counts as slow when its work took this many times as long as in the median window."""


class Steadiness(Struct, kw_only=True):
    """`slow_share`: share of the time at less than half the usual speed; `spells`: in how many stretches, the
    longest of them `longest_ms`; `worst`: how much slower the worst window was; `seconds`: how long was
    looked."""

    seconds: float = 0.0
    slow_share: float = 0.0
    spells: int = 0
    longest_ms: float = 0.0
    worst: float = 1.0

    def __str__(self) -> str:
        if not self.spells:
            return f"steady: never at less than half its speed in {self.seconds:.0f} s"
        return (
            f"at less than half its speed for {self.slow_share:.1%} of {self.seconds:.0f} s, {self.spells} "
            f"times, up to {self.longest_ms:.0f} ms at a time, {self.worst:.1f} times slower at worst"
        )


async def look(seconds: float) -> Steadiness:
    """Keep every core busy for this long, and return what the worst of them saw."""
    cores = sorted(os.sched_getaffinity(0))
    seen = await asyncio.gather(*(_look_at(core, seconds) for core in cores))
    return max((judge(windows) for windows in seen), key=lambda one: one.slow_share)


def judge(windows: Sequence[float]) -> Steadiness:
    """Judge windows of WINDOW_S by the CPU seconds a piece of work took in each (mean)."""
    usual = median(windows)
    slow = [window > SLOW * usual for window in windows]
    spells = [sum(1 for _ in spell) for is_slow, spell in groupby(slow) if is_slow]
    return Steadiness(
        seconds=len(windows) * WINDOW_S,
        slow_share=sum(slow) / len(windows) if windows else 0.0,
        spells=len(spells),
        longest_ms=max(spells, default=0) * WINDOW_S * 1000,
        worst=max(windows) / usual if windows else 1.0,
    )


async def _look_at(core: int, seconds: float) -> list[float]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "broker.bench.steadiness", str(core), str(seconds)),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        written, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return decode(written, type=list[float])


def work_through(seconds: float) -> list[float]:
    """Work for this long; return the mean CPU seconds of a piece of work for every window."""
    windows: list[float] = []
    start = time.monotonic()
    while (begun := time.monotonic()) - start < seconds:
        used, pieces = time.thread_time(), 0
        while time.monotonic() - begun < WINDOW_S:
            total = 0
            for number in range(WORK):
                total += number
            pieces += 1
        windows.append((time.thread_time() - used) / pieces)
    return windows


if __name__ == "__main__":
    os.sched_setaffinity(0, {int(sys.argv[1])})
    sys.stdout.write(json.dumps(work_through(float(sys.argv[2]))))
