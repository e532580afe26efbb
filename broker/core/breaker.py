"""A circuit breaker for one endpoint.

Theory of operation. CLOSED: requests go out, results are counted. Five failures in a row, or half of the
last 20 results failing within 60 s, open it. OPEN: nothing is sent until `retry_at_ms`; messages wait in
their mailbox without using attempts. Then one probe goes out (HALF_OPEN): its success closes the breaker, its
failure opens it for twice as long (5 s to 60 s). A probe whose result never comes is given up some time after
its deadline, and another may go. An endpoint that is known to have failed under another owner begins OPEN,
with a probe to be sent at once (`distrust`).

It does not send, wait or read a clock. Results of requests that were on their way when it opened change
nothing while it is OPEN; one that arrives in HALF_OPEN is as good as the probe's.

Invariants: nothing may be sent while OPEN before `retry_at_ms`; at most one probe is out at a time.
"""

from collections import deque
from enum import Enum
from typing import Final

from schema.quick import quick

FAILURES_IN_A_ROW: Final = 5
WINDOW_RESULTS: Final = 20
WINDOW_FAILURES: Final = 10
WINDOW_MS: Final = 60_000
OPEN_MS_MIN: Final = 5_000
OPEN_MS_MAX: Final = 60_000
PROBE_LOST_MS: Final = 5_000
"""After the deadline of its attempt: every attempt comes to an end, so this is only for faults of ours."""


@quick
class BreakerState(Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half_open"


CLOSED: Final = BreakerState.CLOSED
"""Named once: to look up a member of an enum costs some ten times as much as a global name (CPython 3.11)."""


class Breaker:
    """Call `may_send` before a request, `sent` when it goes out, then `succeeded` or `failed`.

    `scale` shrinks the times for tests of the whole system. `retry_at_ms` is the earliest moment at which
    a request may go (0 when closed).
    """

    __slots__ = ("_failures", "_open_ms", "_scale", "_window", "retry_at_ms", "state")

    def __init__(self, *, scale: float = 1.0) -> None:
        self.state = CLOSED
        self.retry_at_ms = 0
        self._scale = scale
        self._open_ms = OPEN_MS_MIN
        self._failures = 0
        # Results as (at, ok), kept from the first failure on: a healthy endpoint costs nothing, and one that
        # begins to fail is judged a few results later than if its successes before had been kept.
        self._window: deque[tuple[int, bool]] | None = None

    def may_send(self, now_ms: int) -> bool:
        """Tell whether a request may go out now."""
        return self.state is CLOSED or now_ms >= self.retry_at_ms

    def distrust(self, now_ms: int) -> None:
        """Open a new breaker: the endpoint has failed before, and the next request is a probe."""
        self._open(now_ms)
        self.retry_at_ms = now_ms

    def sent(self, now_ms: int, *, within_ms: int) -> None:
        """Note that a request went out, with this deadline: unless the breaker is closed it is the probe."""
        if self.state is not CLOSED:
            self.state = BreakerState.HALF_OPEN
            self.retry_at_ms = now_ms + within_ms + PROBE_LOST_MS

    def succeeded(self, now_ms: int) -> None:
        """Note a success."""
        if self.state is CLOSED:
            self._failures = 0
            if self._window is not None:
                self._note(now_ms, ok=True)
        elif self.state is BreakerState.HALF_OPEN:
            self._close()

    def failed(self, now_ms: int) -> None:
        """Note a failure."""
        if self.state is BreakerState.HALF_OPEN:
            self._open_ms = min(2 * self._open_ms, OPEN_MS_MAX)
            self._open(now_ms)
        elif self.state is CLOSED:
            self._failures += 1
            if self._note(now_ms, ok=False) or self._failures >= FAILURES_IN_A_ROW:
                self._open(now_ms)

    def _note(self, now_ms: int, *, ok: bool) -> bool:
        """Remember a result; tell whether too many of the last ones failed."""
        if self._window is None:
            self._window = deque(maxlen=WINDOW_RESULTS)
        window = self._window
        window.append((now_ms, ok))
        if len(window) < WINDOW_RESULTS or now_ms - window[0][0] > WINDOW_MS * self._scale:
            return False
        failures = sum(not was_ok for _, was_ok in window)
        if failures == 0:
            self._window = None
        return failures >= WINDOW_FAILURES

    def _open(self, now_ms: int) -> None:
        self.state = BreakerState.OPEN
        self.retry_at_ms = now_ms + int(self._open_ms * self._scale)
        self._window = None
        self._failures = 0

    def _close(self) -> None:
        self.state = CLOSED
        self.retry_at_ms = 0
        self._open_ms = OPEN_MS_MIN
