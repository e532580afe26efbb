"""How long to wait before the next connection: doubling, bounded, with jitter so that a fleet does not return
in one wave."""

import random
from typing import Final

FIRST_S: Final = 0.2
MAX_S: Final = 15.0


class Backoff:
    """The pauses of one connection that keeps failing."""

    def __init__(self, *, first_s: float = FIRST_S, max_s: float = MAX_S) -> None:
        self._first_s = first_s
        self._max_s = max_s
        self._ceiling_s = first_s

    def reset(self) -> None:
        """Note that it works again."""
        self._ceiling_s = self._first_s

    def next_s(self) -> float:
        """Return the next pause: half of the ceiling to all of it, which doubles each time."""
        pause_s = self._ceiling_s * random.uniform(0.5, 1)
        self._ceiling_s = min(self._ceiling_s * 2, self._max_s)
        return pause_s
