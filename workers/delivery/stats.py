"""What the delivery trade counts, and what routing learns from it about its agents.

Series are looked up once; on the hot path there are only plain increments. Success rates and latencies are
moving averages that drift back to perfect with time, so that an agent that gets nothing can recover.
"""

import math
from collections.abc import Callable
from typing import Final

from broker.core.routing import Quality
from broker.telemetry import metrics
from broker.transport.client import FailureKind
from schema.delivery import AttemptStatus
from schema.message import Lane, Reason, Status
from workers.delivery.items import Item
from workers.delivery.outcome import Outcome

WEIGHT: Final = 0.1
"""What one attempt counts in the averages: the last twenty or so matter."""
FORGIVE_MS: Final = 60_000
"""After this long without an attempt an agent's record counts for 1/e of what it did."""
HEARD_MS: Final = 1_000
"""A successful push is a sign of life; more often than this it says nothing new."""
TRACKED_MAX: Final = 200_000
"""Pairs of agent and capability; at the bound the averages start anew."""

_PERFECT: Final = Quality()
_DELIVERED: Final = metrics.MESSAGES.child(stage="deliver", outcome="delivered")
_RETRIED: Final = metrics.MESSAGES.child(stage="deliver", outcome="retried")
_FAILED: Final = metrics.MESSAGES.child(stage="deliver", outcome="failed")
_EXPIRED: Final = metrics.MESSAGES.child(stage="deliver", outcome="expired")
_SECONDS: Final = {status: metrics.DELIVERY_SECONDS.child(outcome=status.value) for status in AttemptStatus}
_SUCCESS_SECONDS: Final = _SECONDS[AttemptStatus.SUCCESS]
_LATENCY: Final = {lane: metrics.PUBLISH_TO_DELIVERED.child(lane=lane.value) for lane in Lane}
_OK: Final = metrics.ATTEMPTS.child(outcome="success", reason="ok")
_CODES: Final = {408: "throttled", 425: "throttled", 429: "throttled", 503: "throttled", 410: "gone"}
_CLASSES: Final = {1: "protocol", 3: "redirect", 4: "client_error", 5: "server_error"}
_KINDS: Final = {kind.value for kind in FailureKind}


FRESH_MS: Final = 5_000
"""An average this young is given as it is; older ones fade."""


class _Average:
    """What was measured of an agent at a capability. `quality` is made when it changes, not when it is asked
    for: routing asks twice a message."""

    __slots__ = ("at_ms", "quality")

    def __init__(self) -> None:
        self.quality = _PERFECT
        self.at_ms = 0


class DeliveryStats:
    """Counters of one process, and the averages its router asks for."""

    def __init__(self, *, pushed: Callable[[str, int], None]) -> None:
        self.now_ms = 0
        """The time of the last attempt or tick: near enough for what fades over a minute."""
        self._averages: dict[tuple[str, str], _Average] = {}
        self._pushed = pushed

    def delivered(self, item: Item, duration_ms: int, now_ms: int) -> None:
        """Count one attempt that delivered, as `attempted` would."""
        _SUCCESS_SECONDS.observe_ms(duration_ms)
        _OK.value += 1
        _DELIVERED.value += 1
        mailbox = item.mailbox
        endpoint = mailbox.endpoint
        if now_ms - endpoint.heard_ms >= HEARD_MS:
            endpoint.heard_ms = now_ms
            self._pushed(endpoint.agent.id, now_ms)
        _LATENCY[mailbox.lane].observe_ms(now_ms - item.created_ms)
        if item.requirements:
            self._learn(endpoint.agent.id, item.requirements[0], True, duration_ms, now_ms)

    def attempted(self, item: Item, outcome: Outcome, now_ms: int) -> None:
        """Count one attempt and what it came to."""
        attempt = outcome.event.attempt
        assert attempt is not None
        _SECONDS[attempt.status].observe_ms(attempt.duration_ms)
        good = attempt.status is AttemptStatus.SUCCESS
        if good:
            _OK.inc()
            self._pushed(item.mailbox.endpoint.agent.id, now_ms)
            _DELIVERED.inc()
            _LATENCY[item.mailbox.lane].observe_ms(now_ms - item.created_ms)
        else:
            metrics.ATTEMPTS.child(outcome=attempt.status.value, reason=_reason(outcome)).inc()
            if outcome.due_ms is not None:
                _RETRIED.inc()
            else:
                (_EXPIRED if outcome.event.status is Status.EXPIRED else _FAILED).inc()
        if item.requirements:
            # Routing asks for the first capability of a message only.
            agent_id = item.mailbox.endpoint.agent.id
            self._learn(agent_id, item.requirements[0], good, attempt.duration_ms, now_ms)

    def ended(self, status: Status, _: Reason) -> None:
        """Count a message that ended without an attempt."""
        (_EXPIRED if status is Status.EXPIRED else _FAILED).inc()

    def quality(self, agent_id: str, capability: str) -> Quality:
        """Return what was measured of an agent at a capability, as far as it still counts."""
        average = self._averages.get((agent_id, capability))
        if average is None:
            return _PERFECT
        quality = average.quality
        age_ms = self.now_ms - average.at_ms
        if age_ms < FRESH_MS:
            return quality
        fade = math.exp(-age_ms / FORGIVE_MS)
        return Quality(1 - (1 - quality.success_rate) * fade, quality.latency_ms * fade)

    def _learn(self, agent_id: str, capability: str, good: bool, duration_ms: int, now_ms: int) -> None:
        average = self._averages.get((agent_id, capability))
        if average is None:
            if len(self._averages) >= TRACKED_MAX:
                self._averages.clear()
            average = self._averages[agent_id, capability] = _Average()
        known = average.quality
        average.quality = Quality(
            known.success_rate + WEIGHT * (good - known.success_rate),
            known.latency_ms + WEIGHT * (duration_ms - known.latency_ms),
        )
        average.at_ms = self.now_ms = now_ms


def _reason(outcome: Outcome) -> str:
    attempt = outcome.event.attempt
    if attempt is None or attempt.response_code is None:
        return outcome.label if outcome.label in _KINDS else "protocol"
    code = attempt.response_code
    return _CODES.get(code) or _CLASSES.get(code // 100, "protocol")
