"""The arithmetic of the report: percentiles, medians, rates. Pure."""

from collections.abc import Sequence

from msgspec import Struct


class Latencies(Struct, kw_only=True):
    """Milliseconds; `count` says how much the percentiles are worth."""

    count: int = 0
    p50_ms: float = 0.0
    p90_ms: float = 0.0
    p99_ms: float = 0.0
    p999_ms: float = 0.0
    max_ms: float = 0.0


def percentile(ordered: Sequence[int], share: float) -> int:
    """Return the nearest-rank percentile of an ascending sequence: a value that was really measured.

    Raises: ValueError for an empty sequence.
    """
    if not ordered:
        raise ValueError("no values")
    # ceil without floats' surprises: 0.99 * 100 is 99.00000000000001 in binary.
    rank = -(-round(share * 1_000_000) * len(ordered) // 1_000_000)
    return ordered[min(max(rank, 1), len(ordered)) - 1]


def summarise(latencies_us: Sequence[int]) -> Latencies:
    """Return the percentiles of unordered latencies in microseconds."""
    if not latencies_us:
        return Latencies()
    ordered = sorted(latencies_us)

    def at(share: float) -> float:
        return percentile(ordered, share) / 1000

    return Latencies(
        count=len(ordered),
        p50_ms=at(0.5),
        p90_ms=at(0.9),
        p99_ms=at(0.99),
        p999_ms=at(0.999),
        max_ms=ordered[-1] / 1000,
    )


def median(values: Sequence[float]) -> float:
    """Return the middle value, or the mean of the two in the middle; 0 for none."""
    if not values:
        return 0.0
    ordered = sorted(values)
    middle = len(ordered) // 2
    if len(ordered) % 2:
        return ordered[middle]
    return (ordered[middle - 1] + ordered[middle]) / 2


def per_second(count: int, nanoseconds: int) -> float:
    """Return a rate; 0 for no time."""
    return count * 1e9 / nanoseconds if nanoseconds > 0 else 0.0
