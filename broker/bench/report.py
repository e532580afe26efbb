"""What the benchmark found, and how it is shown: figures first, what they rest on beside them."""

from msgspec import Struct, field
from rich.console import Console

from broker.bench.figures import Latencies, median
from broker.bench.steadiness import Steadiness
from broker.bench.tables import Cell, Table, shown, text_of


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


def cores_busy(runs: list[Run]) -> float:
    """Return how many cores all parts together kept busy, the median over runs. Flat out, far fewer than
    there are says that something waits for something: no CPU will make that faster."""
    return median([sum(run.cpu_us.values()) * run.per_second / 1e6 for run in runs])


def show(report: Report, console: Console) -> None:
    """Print the report."""
    for table in tables(report):
        console.print(shown(table))
    console.print(f"the machine by itself: {report.steadiness}", style="dim")
    console.print("  ".join(f"{name} {value}" for name, value in report.environment.items()), style="dim")


def tables(report: Report) -> list[Table]:
    """Return the report as tables: rates, latencies where a rate was paced, CPU, what is left in Redis."""
    paced = [_latencies(report)] if report.paced else []
    return [_rates(report), *paced, _cpu(report), _leftovers(report.leftovers)]


def _rates(report: Report) -> Table:
    rows = [_rate_row("product", report.flat_out), _rate_row("bare loop", report.ceiling)]
    rows.append(["ratio", round(report.ratio, 2), "", None, None, None])
    pushed = [*report.flat_out, *report.paced]
    checked, wrong = (sum(counts) for counts in zip(*map(_signatures, pushed), strict=True))
    return Table(
        f"Flat out, {len(report.flat_out)} x {report.flat_out[0].messages:,} messages in turns",
        ["", "messages/s", "lowest - highest", "published/s", "duplicates", "missing"],
        rows,
        f"Publish, route, push, record, until the last row is committed; medians. {checked:,} signatures "
        f"checked, {wrong:,} wrong.",
    )


def _rate_row(name: str, runs: list[Run]) -> list[Cell]:
    rates = [run.per_second for run in runs]
    return [
        name,
        middle(runs),
        f"{text_of(min(rates))} - {text_of(max(rates))}",
        median([run.published_per_second for run in runs]),
        sum(run.duplicates for run in runs),
        sum(run.missing for run in runs),
    ]


def _signatures(run: Run) -> tuple[int, int]:
    return run.signatures_checked, run.signatures_wrong


def _cpu(report: Report) -> Table:
    kinds = {"flat out": report.flat_out, "bare loop": report.ceiling}
    kinds |= {f"at {run.rate:,}/s": [run] for run in report.paced}
    columns = {kind: middle_cpu(runs) for kind, runs in kinds.items()}
    parts = dict.fromkeys(part for column in columns.values() for part in column)
    rows: list[list[Cell]] = [[part, *(column.get(part) for column in columns.values())] for part in parts]
    rows.append(["sum", *(sum(column.values()) for column in columns.values())])
    rows.append(["cores busy", *(cores_busy(runs) for runs in kinds.values())])
    return Table("CPU, microseconds a message", ["", *columns], rows)


def _latencies(report: Report) -> Table:
    columns = ["rate/s", "", "p50 ms", "p90 ms", "p99 ms", "p99.9 ms", "max ms", "sent late ms"]
    rows: list[list[Cell]] = []
    runs = [("product", run) for run in report.paced] + [("bare loop", run) for run in report.paced_ceiling]
    for name, run in sorted(runs, key=lambda pair: pair[1].rate):
        at = run.latencies
        figures = [at.p50_ms, at.p90_ms, at.p99_ms, at.p999_ms, at.max_ms, run.late_ms_max]
        rows.append([run.rate, name, *figures])
    note = (
        "From the time a message was meant to be sent; `sent late` is how late the worst left the publisher "
        "and is part of it."
    )
    return Table("Publish to the receiver's 200", columns, rows, note)


def _leftovers(left: Leftovers) -> Table:
    sizes = {**left.by_kind, "used_memory": left.used_memory_growth}
    rows: list[list[Cell]] = [[kind, size, size / max(left.messages, 1)] for kind, size in sizes.items()]
    note = "`seen` is the deduplication window; it is dropped when the window has passed."
    return Table("Left behind in Redis", ["", "bytes", "a message"], rows, note)
