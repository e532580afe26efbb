"""Instruments: what is counted is what is shown, and labels stay within their sets."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client import Histogram as Reference

from broker.telemetry import metrics
from broker.telemetry.instruments import (
    LOOKED_UP_MS,
    Counter,
    Gauge,
    Histogram,
    Instrument,
    Instruments,
    Ranking,
    Spread,
)


def shown(*instruments: Counter | Gauge | Histogram | Ranking) -> str:
    return generate_latest(Instruments(instruments).registered()).decode()


def test_a_counter_shows_its_total_per_label() -> None:
    counter = Counter("things", "Things.", {"kind": ("a", "b")})
    counter.child(kind="a").inc()
    counter.child(kind="a").inc(4)
    counter.child(kind="b").inc()
    page = shown(counter)
    assert "# TYPE agent_broker_things_total counter" in page
    assert 'agent_broker_things_total{kind="a"} 5.0' in page
    assert 'agent_broker_things_total{kind="b"} 1.0' in page


def test_an_instrument_without_labels_is_shown_before_it_was_touched() -> None:
    assert "agent_broker_things_total 0.0" in shown(Counter("things", "Things."))


def test_a_gauge_asks_its_source_at_every_scrape() -> None:
    gauge = Gauge("level", "Level.")
    values = iter([1.0, 2.0])
    gauge.child().read = lambda: next(values)
    assert "agent_broker_level 1.0" in shown(gauge)
    assert "agent_broker_level 2.0" in shown(gauge)


@pytest.mark.parametrize("labels", [{}, {"kind": "c"}, {"other": "a"}, {"kind": "a", "other": "a"}])
def test_a_label_outside_its_set_is_refused(labels: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="agent_broker_things"):
        Counter("things", "Things.", {"kind": ("a", "b")}).child(**labels)


@given(st.lists(st.one_of(st.floats(0, 20), st.sampled_from([0.1, 1.0, 10.0]))))
def test_a_histogram_counts_as_the_reference_does(values: list[float]) -> None:
    bounds = (0.1, 1.0, 10.0)
    ours = Histogram("wait_seconds", "Wait.", bounds=bounds)
    registry = CollectorRegistry()
    theirs = Reference("agent_broker_wait_seconds", "Wait.", buckets=bounds, registry=registry)
    for value in values:
        ours.child().observe(value)
        theirs.observe(value)
    reference = [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]
    assert shown(ours).splitlines() == reference


@given(
    st.lists(st.integers(-10, 2 * LOOKED_UP_MS)),
    st.sampled_from([metrics.FAST_SECONDS, metrics.LONG_SECONDS]),
)
def test_milliseconds_are_counted_as_their_seconds_are(
    values_ms: list[int], bounds: tuple[float, ...]
) -> None:
    looked_up, found = Spread(bounds), Spread(bounds)
    for value_ms in [*values_ms, *(round(bound * 1000) for bound in bounds)]:
        looked_up.observe_ms(value_ms)
        found.observe(value_ms / 1000)
    assert (looked_up.counts, looked_up.total) == (found.counts, found.total)


def test_a_ranking_shows_only_the_highest() -> None:
    ranking = Ranking("depth_messages", "Depth.", "agent", rows_max=2)
    ranking.replace({"a": 1, "b": 3, "c": 2})
    page = shown(ranking)
    assert 'agent="b"' in page
    assert 'agent="c"' in page
    assert 'agent="a"' not in page
    ranking.replace({})
    assert "agent=" not in shown(ranking)


def test_every_metric_of_the_product_is_shown_and_well_named() -> None:
    page = metrics.render().decode()
    assert "agent_broker_ledger_lag_entries 0.0" in page
    assert "agent_broker_build_info{version=" in page
    assert "process_cpu_seconds_total" in page
    for line in page.splitlines():
        if line.startswith("# TYPE agent_broker_"):
            unit = line.split()[2].removesuffix("_total").rsplit("_", 1)[1]
            assert unit in UNITS, line


UNITS = {
    *("messages", "entries", "seconds", "attempts", "requests", "connections", "open", "held", "calls"),
    *("known", "online", "errors", "events", "days", "info", "restarts", "actions", "changes", "sessions"),
    *("stores", "ratio", "sealed"),
}


def test_what_alerts_ask_for_is_what_processes_show() -> None:
    """A rule that names a metric nobody has never fires, and nobody hears of it."""
    known = {
        f"{one.name}_total" if isinstance(one, Counter) else one.name
        for one in vars(metrics).values()
        if isinstance(one, Instrument)
    }
    rules = (Path(__file__).parents[2] / "deploy/alerts.yaml").read_text()
    asked = set(re.findall(r"agent_broker_\w+", rules))
    assert len(asked) >= 6
    assert asked <= known
