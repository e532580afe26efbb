"""Which lanes the next batch is made of: high first, low never starved.

Deficit round robin (Shreedhar and Varghese, 1995) with items of size one: every lane has credit for a round,
and a new round begins when no lane that holds something has credit left.

Invariant: the first item of a lane is taken after at most the sum of the other lanes' weights, twice.
"""

from collections import deque
from collections.abc import Mapping
from typing import Final, TypeVar

from schema.message import LANES, Lane

Item = TypeVar("Item")

WEIGHTS: Final[dict[Lane, int]] = {Lane.HIGH: 16, Lane.NORMAL: 4, Lane.LOW: 1}


class LaneWeights:
    """Remembers what is left of the round between batches, so that small batches do not starve low either."""

    __slots__ = ("_credits", "_weights")

    def __init__(self, weights: Mapping[Lane, int] = WEIGHTS) -> None:
        if min(weights[lane] for lane in LANES) < 1:
            raise ValueError("every lane needs a weight of at least 1, or it would starve")
        self._weights = dict(weights)
        self._credits = dict(weights)

    def take(self, queues: Mapping[Lane, deque[Item]], room: int) -> list[tuple[Lane, Item]]:
        """Remove and return up to `room` items, in the order they should be routed. A lane may be absent."""
        taken: list[tuple[Lane, Item]] = []
        while len(taken) < room and any(queues.values()):
            before = len(taken)
            for lane in LANES:
                queue = queues.get(lane)
                if queue:
                    count = min(self._credits[lane], len(queue), room - len(taken))
                    self._credits[lane] -= count
                    taken += [(lane, queue.popleft()) for _ in range(count)]
            if len(taken) == before:
                self._credits = dict(self._weights)
        return taken
