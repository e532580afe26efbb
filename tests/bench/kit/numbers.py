"""The arithmetic of the benchmarks: the same percentiles and medians as `agent-broker bench` uses."""

from broker.bench.figures import Latencies, median, per_second, percentile, summarise

__all__ = ["Latencies", "median", "per_second", "percentile", "summarise"]
