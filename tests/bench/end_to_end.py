"""End to end: publish, route, sign, push, record, beside a bare loop over the same servers.

`agent-broker bench` on a broker of its own: flat out in turns with the ceiling (A B A B), then latency at
paced rates. The receivers run on the same cores. Takes about two minutes.
"""

import argparse
from typing import Final

from rich.console import Console

from bench.kit.broker import fresh_broker
from bench.kit.program import run
from bench.kit.report import Aim, Findings
from bench.kit.values import Curve
from broker.bench.report import Report, tables
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
        tables=tables(report),
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
