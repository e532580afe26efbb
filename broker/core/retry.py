"""When a failed push is tried again, and why it ends when it is not.

Decides from the answer of one attempt; it keeps no state and does not look at the circuit breaker (while that
is open, messages wait without using attempts). Retries happen at this one layer only.

Invariants: attempts are bounded by `limits.ATTEMPTS_MAX`; no retry is due at or after the message's expiry;
a retry is never earlier than the receiver asked for (up to one hour).
"""

from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Final

from msgspec import Struct

from schema.agent import RetrySchedule
from schema.limits import ATTEMPTS_MAX
from schema.message import DeliveryOptions, Reason
from schema.quick import quick
from schema.times import to_ms

_SECOND: Final = 1_000
_MINUTE: Final = 60 * _SECOND
_HOUR: Final = 60 * _MINUTE

SCHEDULES_MS: Final[dict[RetrySchedule, tuple[int, ...]]] = {
    RetrySchedule.AGENT: (1 * _SECOND, 5 * _SECOND, 30 * _SECOND, 2 * _MINUTE, 10 * _MINUTE),
    RetrySchedule.WEBHOOK: (
        5 * _SECOND,
        5 * _MINUTE,
        30 * _MINUTE,
        2 * _HOUR,
        5 * _HOUR,
        10 * _HOUR,
        14 * _HOUR,
        20 * _HOUR,
        24 * _HOUR,
    ),
}
JITTER: Final = 0.2
RETRY_AFTER_MS_MIN: Final = 1 * _SECOND
RETRY_AFTER_MS_MAX: Final = 1 * _HOUR
# A refusal rarely heals, but a deployment may answer 404 for a moment while it restarts.
QUICK_TRIES: Final = 3
QUICK_DELAY_MS: Final = 1 * _SECOND

_GONE: Final = 410
_REFUSALS: Final = frozenset({400, 401, 403, 404, 405, 413, 415, 422})
_DIGITS_MAX: Final = 9  # thirty years in seconds: longer is clamped anyway


@quick
class Verdict(Enum):
    """What an answer means. RETRY: the schedule. REJECTED_RETRY: quick tries only. GONE: the endpoint asks
    never to be called again."""

    DELIVERED = "delivered"
    RETRY = "retry"
    REJECTED_RETRY = "rejected_retry"
    GONE = "gone"


class Decision(Struct, frozen=True, gc=False):
    """When the next attempt is due; None: finished, with `reason`, or delivered (no reason either)."""

    deliver_again_ms: int | None
    reason: Reason | None = None


_DONE: Final = Decision(None)


def classify(status_code: int) -> Verdict:
    """Return what an HTTP status means. What nobody foresaw (redirects too) follows the schedule."""
    if 200 <= status_code < 300:
        return Verdict.DELIVERED
    if status_code == _GONE:
        return Verdict.GONE
    if status_code in _REFUSALS:
        return Verdict.REJECTED_RETRY
    return Verdict.RETRY


def retry_after_ms(header: str | None, *, now_ms: int) -> int | None:
    """Return the delay a `Retry-After` header asks for (RFC 9110, 10.2.3), from one second to one hour.

    Seconds or an HTTP date; None when there is no header or it is junk.
    """
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        asked_ms = int(text) * _SECOND if len(text) <= _DIGITS_MAX else RETRY_AFTER_MS_MAX
    else:
        at_ms = _date_ms(text)
        if at_ms is None:
            return None
        asked_ms = at_ms - now_ms
    return min(max(asked_ms, RETRY_AFTER_MS_MIN), RETRY_AFTER_MS_MAX)


def attempts_max(schedule: RetrySchedule, options: DeliveryOptions) -> int:
    """Return how many attempts a message gets at most, the first included."""
    if options.retry_policy == "none":
        return 1
    if options.max_retries is not None:
        return 1 + min(max(options.max_retries, 0), ATTEMPTS_MAX - 1)
    return 1 + len(SCHEDULES_MS[schedule])


def next_attempt(
    *,
    attempt: int,
    verdict: Verdict,
    retry_after: int | None,
    schedule: RetrySchedule,
    options: DeliveryOptions,
    expires_ms: int | None,
    now_ms: int,
    chance: float,
    scale: float = 1.0,
) -> Decision:
    """Decide what follows attempt number `attempt` (from 1 within its round).

    `retry_after` is what `retry_after_ms` made of the answer; `chance` in [0, 1) is the jitter; `scale`
    shrinks the product's own delays (never what the receiver asked for).
    """
    if verdict is Verdict.DELIVERED:
        return _DONE
    if verdict is Verdict.GONE:
        return Decision(None, Reason.GONE)
    allowed = attempts_max(schedule, options)
    if verdict is Verdict.REJECTED_RETRY:
        if attempt >= min(allowed, QUICK_TRIES):
            return Decision(None, Reason.REJECTED)
        delay_ms = _jittered(QUICK_DELAY_MS * scale, chance)
    elif attempt >= allowed:
        return Decision(None, Reason.EXHAUSTED)
    else:
        delay_ms = _scheduled(attempt, retry_after, schedule, options, chance=chance, scale=scale)
    due_ms = now_ms + delay_ms
    # Ended now rather than at its expiry: nobody would try it in between.
    if expires_ms is not None and due_ms >= expires_ms:
        return Decision(None, Reason.EXPIRED)
    return Decision(due_ms)


def _scheduled(
    attempt: int,
    retry_after: int | None,
    schedule: RetrySchedule,
    options: DeliveryOptions,
    *,
    chance: float,
    scale: float,
) -> int:
    delays = SCHEDULES_MS[schedule]
    if retry_after is not None:
        asked_ms = min(max(retry_after, delays[0] * scale), RETRY_AFTER_MS_MAX)
        # Only later: all messages of an endpoint were told the same moment, and none may come before it.
        return int(asked_ms * (1 + JITTER * chance))
    step = 0 if options.retry_policy == "fixed" else min(attempt, len(delays)) - 1
    return _jittered(delays[step] * scale, chance)


def _jittered(delay_ms: float, chance: float) -> int:
    """Return the delay +-20 %, at least 1 ms so that a retry is never due at once."""
    return max(1, int(delay_ms * (1 - JITTER + 2 * JITTER * chance)))


def _date_ms(text: str) -> int | None:
    try:
        moment = parsedate_to_datetime(text)
        return to_ms(moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC))
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
