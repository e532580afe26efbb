"""What the benchmark found, and how it is shown: figures first, what they rest on beside them."""

from msgspec import Struct, field
from rich.console import Console
from rich.table import Table

from broker.bench.figures import Latencies, median
from broker.bench.steadiness import Steadiness


class Run(Struct, kw_only=True):
    """One run of product or ceiling, flat out or paced. CPU is in microseconds a message, by part;
    `rate` is what a paced run was meant to publish a second, 0 for flat out; `late_ms_max` is how late one of
    its messages left at worst, and is part of its latency."""

    messages: int
    rate: int = 0
    per_second: float
    published_per_second: float
    cpu_us: dict[str, float]
    duplicates: int = 0
    missing: int = 0
    signatures_checked: int = 0
    signatures_wrong: int = 0
    latencies: Latencies = field(default_factory=Latencies)
    late_ms_max: float = 0.0


class Leftovers(Struct, kw_only=True):
    """Redis after the runs: bytes it says it uses beyond those before, and bytes of keys by kind."""

    used_memory_growth: int
    messages: int
    by_kind: dict[str, int]


class Report(Struct, kw_only=True):
    """Everything, as `--json` writes it; the rates at the top are medians of the runs below."""

    environment: dict[str, str]
    product_per_second: float = 0.0
    ceiling_per_second: float = 0.0
    ratio: float = 0.0
    flat_out: list[Run]
    ceiling: list[Run]
    paced: list[Run]
    paced_ceiling: list[Run] = field(default_factory=list)
    """The bare loop at the rates of `paced`: what of a latency is the machine's own."""
    steadiness: Steadiness = field(default_factory=Steadiness)
    leftovers: Leftovers

    def __post_init__(self) -> None:
        self.product_per_second, self.ceiling_per_second = middle(self.flat_out), middle(self.ceiling)
        if self.ceiling_per_second:
            self.ratio = self.product_per_second / self.ceiling_per_second


def middle(runs: list[Run]) -> float:
    """Return the median rate of runs."""
    return median([run.per_second for run in runs])


def middle_cpu(runs: list[Run]) -> dict[str, float]:
    """Return the median CPU of every part over runs, dearest first."""
    parts = {part for run in runs for part in run.cpu_us}
    medians = {part: median([run.cpu_us.get(part, 0.0) for run in runs]) for part in parts}
    return dict(sorted(medians.items(), key=lambda item: -item[1]))


def show(report: Report, console: Console) -> None:
    """Print the report."""
    console.print(_rates(report))
    console.print(_cpu(report))
    if report.paced:
        console.print(_latencies(report))
    console.print(_leftovers(report.leftovers))
    console.print(f"the machine by itself: {report.steadiness}", style="dim")
    console.print("  ".join(f"{name} {value}" for name, value in report.environment.items()), style="dim")


def _rates(report: Report) -> Table:
    table = Table(title="Flat out: publish, route, push, record, until the last row is committed")
    for heading in ("", "messages/s", "lowest - highest", "published/s", "duplicates", "missing"):
        table.add_column(heading, justify="left" if not heading else "right")
    for name, runs in (("product", report.flat_out), ("ceiling", report.ceiling)):
        table.add_row(
            name,
            f"{middle(runs):,.0f}",
            _range(runs),
            f"{median([run.published_per_second for run in runs]):,.0f}",
            str(sum(run.duplicates for run in runs)),
            str(sum(run.missing for run in runs)),
        )
    table.add_row("ratio", f"{report.ratio:.2f}")
    checked, wrong = _signatures(report)
    table.caption = f"{checked} signatures checked, {wrong} wrong"
    return table


def _range(runs: list[Run]) -> str:
    rates = [run.per_second for run in runs]
    return f"{min(rates):,.0f} - {max(rates):,.0f}" if rates else ""


def _signatures(report: Report) -> tuple[int, int]:
    runs = [*report.flat_out, *report.paced]
    return sum(run.signatures_checked for run in runs), sum(run.signatures_wrong for run in runs)


def _cpu(report: Report) -> Table:
    table = Table(title="CPU, microseconds a message")
    columns = {"product": middle_cpu(report.flat_out), "ceiling": middle_cpu(report.ceiling)}
    columns |= {f"at {run.rate:,}/s": middle_cpu([run]) for run in report.paced}
    table.add_column("")
    for heading in columns:
        table.add_column(heading, justify="right")
    parts = dict.fromkeys(part for column in columns.values() for part in column)
    for part in parts:
        table.add_row(part, *(_cell(column.get(part)) for column in columns.values()))
    table.add_section()
    table.add_row("sum", *(f"{sum(column.values()):.1f}" for column in columns.values()))
    return table


def _cell(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _latencies(report: Report) -> Table:
    table = Table(title="Publish to 200 at paced rates, from the time meant to send")
    for heading in ("rate/s", "", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms", "sent late ms"):
        table.add_column(heading, justify="left" if not heading else "right")
    runs = [("product", run) for run in report.paced] + [("ceiling", run) for run in report.paced_ceiling]
    for name, run in sorted(runs, key=lambda one: one[1].rate):
        found = run.latencies
        figures = (found.p50_ms, found.p90_ms, found.p99_ms, found.p999_ms, found.max_ms, run.late_ms_max)
        table.add_row(f"{run.rate:,}", name, *(f"{value:.2f}" for value in figures))
    return table


def _leftovers(left: Leftovers) -> Table:
    table = Table(title="Left behind in Redis")
    table.add_column("")
    table.add_column("bytes", justify="right")
    table.add_column("a message", justify="right")
    rows = {**left.by_kind, "used_memory": left.used_memory_growth}
    for kind, size in rows.items():
        table.add_row(kind, f"{size:+,}", f"{size / max(left.messages, 1):.1f}")
    table.caption = "seen is the deduplication window; it is dropped when the window has passed"
    return table
