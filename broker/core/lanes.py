"""Which lanes the next batch is made of: high first, low never starved.

Deficit round robin (Shreedhar and Varghese, 1995) with items of size one: every lane has credit for a round,
and a new round begins when no lane that holds something has credit left.

Invariant: the first item of a lane is taken after at most the sum of the other lanes' weights, twice.
"""

from collections import deque
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from schema.message import LANES, Lane

Item = TypeVar("Item")

WEIGHTS: Final[dict[Lane, int]] = {Lane.HIGH: 16, Lane.NORMAL: 4, Lane.LOW: 1}


def _one(_: object) -> int:
    return 1


class LaneWeights:
    """Remembers what is left of the round between batches, so that small batches do not starve low either."""

    __slots__ = ("_credits", "_weights")

    def __init__(self, weights: Mapping[Lane, int] = WEIGHTS) -> None:
        if min(weights[lane] for lane in LANES) < 1:
            raise ValueError("every lane needs a weight of at least 1, or it would starve")
        self._weights = dict(weights)
        self._credits = dict(weights)

    def take(
        self, queues: Mapping[Lane, deque[Item]], room: int, *, size: Callable[[Item], int] = _one
    ) -> list[tuple[Lane, Item]]:
        """Remove and return items for up to `room`, in the order they should be routed; one at least, however
        large, where there is room at all. A lane may be absent.

        What does not fit waits for the next call, and keeps its lane's credit: were it passed over for what
        does, or put back and the credit gone, a lane of large items would starve beside busy ones.
        """
        taken: list[tuple[Lane, Item]] = []
        while room > 0 and any(queues.values()):
            before = len(taken)
            for lane in LANES:
                queue = queues.get(lane)
                while queue and room > 0 and self._credits[lane]:
                    room -= size(queue[0])
                    if room < 0 and taken:
                        return taken
                    self._credits[lane] -= 1
                    taken.append((lane, queue.popleft()))
            if len(taken) == before:
                self._credits = dict(self._weights)
        return taken
