"""What follows from sums of messages: totals, rates, averages, percentiles. Pure."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Final

from broker.store.statistics import Counted, Deliveries, Minute, bucket_ms
from schema.limits import STATISTICS_MINUTES
from schema.message import Status
from schema.statistics import MessageStatistics, ThroughputPoint
from schema.times import from_ms

WELL: Final = frozenset((Status.DELIVERED.value, Status.PROCESSED.value))
BADLY: Final = frozenset((Status.FAILED.value, Status.EXPIRED.value))
"""A message its sender took back ended neither way."""
MINUTE_S: Final = 60


def summarize(counted: Counted, side: str, *, now_ms: int) -> MessageStatistics:
    """Return the statistics of one side: `all`, `received` or `sent`."""
    by_status: Counter[str] = Counter()
    by_type: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for total in counted.totals:
        if total.side == side:
            by_status[total.status] += total.messages
            by_type[total.message_type] += total.messages
            if total.reason:
                reasons[total.reason] += total.messages
    times = [one for one in counted.deliveries if one.side == side]
    return MessageStatistics(
        total_messages=by_status.total(),
        by_status={status.value: by_status[status.value] for status in Status},
        by_type=_largest_first(by_type),
        delivery_success_rate=_rate(by_status),
        average_delivery_ms=_average(times),
        p95_delivery_ms=percentile(times, 0.95),
        queue_depth=by_status[Status.PENDING.value],
        failure_reasons=_largest_first(reasons),
        throughput=_points((one for one in counted.minutes if one.side == side), now_ms),
    )


def percentile(times: Sequence[Deliveries], part: float) -> float | None:
    """Return the time that this part of the deliveries did not exceed, within the 12 % of a bucket."""
    wanted = part * sum(one.messages for one in times)
    reached = 0
    for one in sorted(times, key=lambda one: one.bucket):
        if one.messages > 0 and reached + one.messages >= wanted:
            low, high = bucket_ms(one.bucket), bucket_ms(one.bucket + 1)
            # Buckets are even steps of the logarithm; so is the way through one.
            share: float = (high / low) ** ((wanted - reached) / one.messages)
            return round(low * share, 3)
        reached += one.messages
    return None


def _rate(by_status: Counter[str]) -> float | None:
    well = sum(by_status[status] for status in WELL)
    ended = well + sum(by_status[status] for status in BADLY)
    return round(well / ended, 6) if ended else None


def _average(times: Iterable[Deliveries]) -> float | None:
    messages, total_ms = 0, 0
    for one in times:
        messages += one.messages
        total_ms += one.total_ms
    return round(total_ms / messages, 3) if messages else None


def _points(minutes: Iterable[Minute], now_ms: int) -> list[ThroughputPoint]:
    known = {one.at_s: one for one in minutes}
    last_s = now_ms // 1000 // MINUTE_S * MINUTE_S
    points = []
    for at_s in range(last_s - (STATISTICS_MINUTES - 1) * MINUTE_S, last_s + 1, MINUTE_S):
        one = known.get(at_s)
        points.append(
            ThroughputPoint(
                minute=from_ms(at_s * 1000),
                accepted=one.accepted if one is not None else 0,
                delivered=one.delivered if one is not None else 0,
                processed=one.processed if one is not None else 0,
            )
        )
    return points


def _largest_first(counts: Counter[str]) -> dict[str, int]:
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))
