"""End to end: publish, route, sign, push, record, beside a bare loop over the same servers.

`agent-broker bench` on a broker of its own: flat out in turns with the ceiling (A B A B), then latency at
paced rates. The receivers run on the same cores. Takes about two minutes.
"""

import argparse
from typing import Final

from rich.console import Console

from bench.kit.broker import fresh_broker
from bench.kit.numbers import median
from bench.kit.program import run
from bench.kit.report import Aim, Findings, Table
from bench.kit.values import Cell, Curve, text_of
from broker.bench.report import Report, Run, middle_cpu
from broker.bench.run import Plan, measure

NAME: Final = "end_to_end"
TITLE: Final = "End to end, beside a bare loop"
AIM_PER_S: Final = 10_000
AIM_SHARE: Final = 0.7
AIMS_MS: Final = {1_000: {"p50_ms": 2.0, "p99_ms": 10.0}, 5_000: {"p99_ms": 25.0}}
"""By rate: the percentiles that have an aim, in milliseconds from the time meant to send to the 200."""
FULL: Final = Plan(
    messages=50_000, repeat=3, rates=[500, 1_000, 2_000, 5_000], seconds=10, agents=1_000, endpoints=200
)
QUICK: Final = Plan(messages=400, repeat=1, rates=[100, 200], seconds=1, agents=20, endpoints=5, look_s=0.2)


async def main(args: argparse.Namespace, console: Console) -> Findings:
    """Measure a fresh broker."""
    async with fresh_broker() as subject:
        return findings(await measure(console, subject, QUICK if args.quick else FULL))


def findings(report: Report) -> Findings:
    """Return what a report of `agent-broker bench` says, with the aims."""
    return Findings(
        tables=[_rates(report), _latencies(report), _cpu(report), _leftovers(report)],
        curves=[_curve(report)],
        aims=aims(report),
        notes=[
            "Messages of 350-400 bytes, half named, half routed by capability; pushes signed; every message "
            "and attempt committed in PostgreSQL; appendfsync always.",
            "The bare loop moves the same messages from one stream to the same receivers and two tables, "
            "without routing, signatures, mailboxes, retries or limits.",
            f"The machine by itself, every core busy with arithmetic: {report.steadiness}.",
        ],
        wrong=wrong(report),
    )


def aims(report: Report) -> list[Aim]:
    """Return the aims of the rates that were run, each with the figure it is judged by."""
    rate, share = report.product_per_second, report.ratio
    found = [
        Aim("rate, the receivers on the same cores", f"{AIM_PER_S:,}/s", f"{rate:,.0f}/s", rate >= AIM_PER_S),
        Aim("share of the bare loop, same run", f"{AIM_SHARE}", f"{share:.2f}", share >= AIM_SHARE),
    ]
    for paced in report.paced:
        for percentile, limit_ms in AIMS_MS.get(paced.rate, {}).items():
            value_ms: float = getattr(paced.latencies, percentile)
            what = f"publish to 200 at {paced.rate:,}/s, {percentile.removesuffix('_ms')}"
            found.append(Aim(what, f"{limit_ms:g} ms", f"{value_ms:.2f} ms", value_ms <= limit_ms))
    return found


def wrong(report: Report) -> list[str]:
    """Say which runs lost messages or signed wrongly: their rates are worth nothing."""
    runs = {"flat out": report.flat_out, "paced": report.paced, "ceiling": report.ceiling}
    return [
        f"{name}: {one.missing} messages missing, {one.signatures_wrong} signatures wrong"
        for name, several in runs.items()
        for one in several
        if one.missing or one.signatures_wrong
    ]


def _rates(report: Report) -> Table:
    rows = [_rate_row("product", report.flat_out), _rate_row("bare loop", report.ceiling)]
    rows.append(["ratio", round(report.ratio, 2), "", None, None, None])
    checked = sum(one.signatures_checked for one in (*report.flat_out, *report.paced))
    return Table(
        f"Flat out, {len(report.flat_out)} x {report.flat_out[0].messages:,} messages in turns",
        ["", "messages/s", "lowest - highest", "published/s", "duplicates", "missing"],
        rows,
        f"Until the last row is committed; medians. {checked:,} signatures checked.",
    )


def _rate_row(name: str, runs: list[Run]) -> list[Cell]:
    rates = [one.per_second for one in runs]
    return [
        name,
        median(rates),
        f"{text_of(min(rates))} - {text_of(max(rates))}",
        median([one.published_per_second for one in runs]),
        sum(one.duplicates for one in runs),
        sum(one.missing for one in runs),
    ]


def _latencies(report: Report) -> Table:
    columns = ["rate/s", "", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms", "sent late ms"]
    rows: list[list[Cell]] = []
    runs = [("product", one) for one in report.paced] + [("bare loop", one) for one in report.paced_ceiling]
    for name, one in sorted(runs, key=lambda pair: pair[1].rate):
        at = one.latencies
        figures = [at.p50_ms, at.p90_ms, at.p99_ms, at.p999_ms, at.max_ms, one.late_ms_max]
        rows.append([one.rate, name, *figures])
    note = (
        "From the time a message was meant to be sent; `sent late` is how late the worst left the publisher "
        "and is part of it."
    )
    return Table("Publish to the receiver's 200", columns, rows, note)


def _cpu(report: Report) -> Table:
    columns = {"flat out": middle_cpu(report.flat_out), "bare loop": middle_cpu(report.ceiling)}
    columns |= {f"at {one.rate:,}/s": middle_cpu([one]) for one in report.paced}
    parts = dict.fromkeys(part for column in columns.values() for part in column)
    rows: list[list[Cell]] = [[part, *(column.get(part) for column in columns.values())] for part in parts]
    rows.append(["sum", *(sum(column.values()) for column in columns.values())])
    return Table("CPU, microseconds a message", ["", *columns], rows)


def _leftovers(report: Report) -> Table:
    left = report.leftovers
    sizes = {**left.by_kind, "used_memory": left.used_memory_growth}
    rows: list[list[Cell]] = [[kind, size, size / max(left.messages, 1)] for kind, size in sizes.items()]
    note = "`seen` is the deduplication window; it is dropped when the window has passed."
    return Table("Left behind in Redis", ["", "bytes", "a message"], rows, note)


def _curve(report: Report) -> Curve:
    paced, bare = report.paced, report.paced_ceiling
    return Curve(
        name="latency",
        title="Publish to the receiver's 200, over the rate",
        x_label="messages a second",
        y_label="milliseconds",
        series={
            "p50": [(one.rate, one.latencies.p50_ms) for one in paced],
            "p90": [(one.rate, one.latencies.p90_ms) for one in paced],
            "p99": [(one.rate, one.latencies.p99_ms) for one in paced],
            "p99 of the bare loop": [(one.rate, one.latencies.p99_ms) for one in bare],
        },
        log_y=True,
    )


if __name__ == "__main__":
    run(NAME, TITLE, main)
