"""Counters, gauges and histograms cheap enough for the hot path, shown in Prometheus' text format.

prometheus_client takes a lock for every increment (0.5 us, a histogram 1.5 us); every process of ours counts
in the one thread of its event loop, so plain attributes do (0.05 and 0.2 us). A scrape may run in another
thread: each value is one Python object and read whole.

Labels come from closed sets, given where the instrument is made; a value outside them is a ValueError, so
that no id can become a label by mistake. `None` as the set means: closed, but known only to the caller (the
names of HTTP operations).
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from typing import Final, Generic, TypeVar

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

PREFIX: Final = "agent_broker_"
LOOKED_UP_MS: Final = 1_000
Labels = Mapping[str, Sequence[str] | None]
_NO_LABELS: Final[Labels] = {}


class Count:
    """One time series that only grows."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0

    def inc(self, by: int = 1) -> None:
        self.value += by


class Level:
    """One time series that goes up and down; `read` is asked at every scrape where it is given."""

    __slots__ = ("read", "value")

    def __init__(self) -> None:
        self.value = 0.0
        self.read: Callable[[], float] | None = None

    def set(self, value: float) -> None:
        self.value = value

    def inc(self, by: float = 1.0) -> None:
        self.value += by

    def now(self) -> float:
        """Return the value, asked from its source where there is one."""
        return self.read() if self.read is not None else self.value


class Spread:
    """One distribution: how many observations fell into each bucket (`bounds` are upper, inclusive)."""

    __slots__ = ("_buckets", "bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = list(bounds)
        self._buckets = _buckets_of_ms(tuple(bounds))
        self.counts = [0] * (len(self.bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def observe_ms(self, value_ms: int) -> None:
        """Observe so many milliseconds, of a distribution of seconds: by a look-up where they are few."""
        if 0 <= value_ms < LOOKED_UP_MS:
            self.counts[self._buckets[value_ms]] += 1
            self.total += value_ms / 1000
        else:
            self.observe(value_ms / 1000)

    def cumulative(self) -> list[tuple[str, float]]:
        """Return (upper bound, observations up to it), as Prometheus wants them."""
        running = 0
        rows = []
        for bound, count in zip([*self.bounds, float("inf")], self.counts, strict=True):
            running += count
            rows.append(("+Inf" if bound == float("inf") else repr(float(bound)), float(running)))
        return rows


@cache
def _buckets_of_ms(bounds: tuple[float, ...]) -> list[int]:
    """Return the bucket of each number of milliseconds below LOOKED_UP_MS; one list for all that share it."""
    return [bisect_left(bounds, value_ms / 1000) for value_ms in range(LOOKED_UP_MS)]


Series = TypeVar("Series")


class Instrument(Generic[Series]):
    """A metric: its name, its label sets, and one series per combination that was asked for."""

    def __init__(self, name: str, text: str, labels: Labels, make: Callable[[], Series]) -> None:
        self.name = PREFIX + name
        self.text = text
        self._labels = labels
        self._make = make
        self._series: dict[tuple[str, ...], Series] = {}
        if not labels:
            self.child()

    def child(self, **labels: str) -> Series:
        """Return the series of these label values. Keep it: looking it up costs more than counting.

        Raises: ValueError for a label or a value that was not declared.
        """
        if labels.keys() != self._labels.keys():
            raise ValueError(f"{self.name} has the labels {', '.join(self._labels) or '(none)'}")
        for label, value in labels.items():
            allowed = self._labels[label]
            if allowed is not None and value not in allowed:
                raise ValueError(f"{self.name}: {label}={value!r}; one of {', '.join(allowed)}")
        key = tuple(labels[label] for label in self._labels)
        if key not in self._series:
            self._series[key] = self._make()
        return self._series[key]

    def series(self) -> list[tuple[list[str], Series]]:
        """Return every series with its label values, in the order of `label_names`."""
        return [(list(key), one) for key, one in tuple(self._series.items())]

    @property
    def label_names(self) -> list[str]:
        return list(self._labels)

    def family(self) -> Metric:
        """Return what a scrape shows."""
        raise NotImplementedError


class Counter(Instrument[Count]):
    """A total; its name ends in `_total` when shown."""

    def __init__(self, name: str, text: str, labels: Labels = _NO_LABELS) -> None:
        super().__init__(name, text, labels, Count)

    def family(self) -> Metric:
        family = CounterMetricFamily(self.name, self.text, labels=self.label_names)
        for values, one in self.series():
            family.add_metric(values, one.value)
        return family


class Gauge(Instrument[Level]):
    """A value of now."""

    def __init__(self, name: str, text: str, labels: Labels = _NO_LABELS) -> None:
        super().__init__(name, text, labels, Level)

    def family(self) -> Metric:
        family = GaugeMetricFamily(self.name, self.text, labels=self.label_names)
        for values, one in self.series():
            family.add_metric(values, one.now())
        return family


class Histogram(Instrument[Spread]):
    """A distribution over fixed buckets."""

    def __init__(self, name: str, text: str, labels: Labels = _NO_LABELS, *, bounds: Sequence[float]) -> None:
        super().__init__(name, text, labels, lambda: Spread(bounds))

    def family(self) -> Metric:
        family = HistogramMetricFamily(self.name, self.text, labels=self.label_names)
        for values, one in self.series():
            family.add_metric(values, buckets=one.cumulative(), sum_value=one.total)
        return family


class Ranking:
    """A gauge of the few highest of many: the one place where an id is a label, bounded by `rows_max`."""

    def __init__(self, name: str, text: str, label: str, *, rows_max: int) -> None:
        self.name = PREFIX + name
        self.text = text
        self._label = label
        self._rows_max = rows_max
        self._rows: list[tuple[str, float]] = []

    def replace(self, values: Mapping[str, float]) -> None:
        """Take new values; all but the highest are dropped."""
        self._rows = sorted(values.items(), key=lambda row: (-row[1], row[0]))[: self._rows_max]

    def family(self) -> Metric:
        """Return what a scrape shows."""
        family = GaugeMetricFamily(self.name, self.text, labels=[self._label])
        for name, value in self._rows:
            family.add_metric([name], value)
        return family


class Instruments(Collector):
    """All instruments of a process, as prometheus_client collects them."""

    def __init__(
        self, instruments: Iterable[Instrument[Count] | Instrument[Level] | Instrument[Spread] | Ranking]
    ):
        self._instruments = tuple(instruments)

    def collect(self) -> Iterable[Metric]:
        return [instrument.family() for instrument in self._instruments]

    def registered(self) -> CollectorRegistry:
        """Return a registry that holds these."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(self)
        return registry
