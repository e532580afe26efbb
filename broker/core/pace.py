"""How fast one endpoint may be pushed to: a token bucket. Pure.

Invariant: in any stretch of t ms at most `rate * t / 1000` pushes go, and a tenth of a second's worth more
(one at least). That much may go at once, because nobody looks more often than every few milliseconds.
"""

from typing import Final

BURST_MS: Final = 100


class Pace:
    """Call `take` before each push. `rate` is pushes a second."""

    __slots__ = ("_at_ms", "_burst", "_tokens", "rate")

    def __init__(self, rate: int) -> None:
        self.rate: Final = rate
        self._burst: Final = max(1.0, rate * BURST_MS / 1000)
        self._tokens = self._burst
        self._at_ms = 0

    def take(self, now_ms: int) -> bool:
        """Take a token; False: there is none yet. A clock that goes back gives none and takes none."""
        passed_ms = now_ms - self._at_ms
        if passed_ms > 0:
            self._tokens = min(self._burst, self._tokens + passed_ms * self.rate / 1000)
        self._at_ms = now_ms
        if self._tokens < 1.0:
            return False
        self._tokens -= 1.0
        return True

    def ready_ms(self, now_ms: int) -> int:
        """Return when there is a token again."""
        missing = max(0.0, 1.0 - self._tokens)
        return now_ms + max(1, round(missing * 1000 / self.rate))
