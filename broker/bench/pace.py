"""The schedule of an open loop: when each message is meant to be sent, whatever happened to those before.

Latency counted from these times leaves nothing out: a publisher that falls behind makes its own messages
late instead of sending fewer (no coordinated omission). Pure.
"""


class Schedule:
    """Message `n` is due at `start + n / rate`; exact in integers, so nothing drifts."""

    def __init__(self, start_ns: int, *, rate: int) -> None:
        if rate <= 0:
            raise ValueError("a schedule needs a rate above 0")
        self._start_ns = start_ns
        self._rate = rate

    def due_ns(self, number: int) -> int:
        """Return when message `number`, counted from 0, is meant to be sent."""
        return self._start_ns + number * 1_000_000_000 // self._rate

    def due_by(self, now_ns: int) -> int:
        """Return how many messages are due at `now_ns` or before."""
        passed_ns = now_ns - self._start_ns
        if passed_ns < 0:
            return 0
        # The inverse of due_ns with its rounding down: the largest n with due_ns(n - 1) <= now.
        return ((passed_ns + 1) * self._rate - 1) // 1_000_000_000 + 1
