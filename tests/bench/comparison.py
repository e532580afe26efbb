"""The arithmetic of `bench.compare`: two sides' reports, round by round, as ratios with their noise. Pure.

A side is one state of the code; a round is one run of each. Ratios are ours / base. A figure of few rounds on
a shared machine says little, so a difference counts only where the two sides' ranges do not even touch.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from bench.kit.numbers import median
from bench.kit.report import Cell, Table
from broker.bench.processes import TICKS_PER_S

ROUNDING: Final = 1e-9
ROUNDS_MIN: Final = 2
"""A single value has no range: whatever it is, it would look like a difference."""


class Unreadable(ValueError):
    """A report has no figures where they are looked for."""


class Round(Struct, frozen=True):
    """One run of one side. CPU is in microseconds a message, by part; percentiles are of the paced run."""

    product_per_second: float
    ceiling_per_second: float
    cpu_us: dict[str, float]
    messages: int
    p50_ms: float | None = None
    p99_ms: float | None = None
    missing: int = 0
    duplicates: int = 0

    @property
    def ratio(self) -> float:
        return self.product_per_second / self.ceiling_per_second


class Figure(Struct, frozen=True):
    """What is compared: its name, how to read it off a round (None: not there), whether more is better, and
    whether it is counted in the kernel's ticks."""

    name: str
    read: Callable[[Round], float | None]
    more_is_better: bool = False
    in_ticks: bool = False


class Verdict(Struct, frozen=True):
    """One figure of both sides: medians, ranges, ratio of medians, range of the ratios round by round."""

    name: str
    base: tuple[float, float, float]
    ours: tuple[float, float, float]
    ratio: float
    ratios: tuple[float, float]
    word: str


def read_round(report: bytes) -> Round:
    """Read a report of `agent-broker bench --json`, of this state of the code or an older one.

    Older ones hold one paced run instead of a list. Raises: Unreadable.
    """
    try:
        found: Any = msgspec.json.decode(report)  # Any: whatever another state of the code wrote
        flat_out, ceiling, paced = found["flat_out"], found["ceiling"], found["paced"]
        runs = paced if isinstance(paced, list) else [paced] if paced else []
        latencies = runs[0]["latencies"] if runs else {}
        counted = [*flat_out, *runs]
        return Round(
            product_per_second=_middle(flat_out),
            ceiling_per_second=_middle(ceiling),
            messages=flat_out[0]["messages"],
            cpu_us={
                part: median([run["cpu_us"].get(part, 0.0) for run in flat_out])
                for part in dict.fromkeys(part for run in flat_out for part in run["cpu_us"])
            },
            p50_ms=latencies.get("p50_ms"),
            p99_ms=latencies.get("p99_ms"),
            missing=sum(run.get("missing", 0) for run in counted),
            duplicates=sum(run.get("duplicates", 0) for run in counted),
        )
    except msgspec.MsgspecError as error:
        raise Unreadable(f"not a report: {error}") from error
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise Unreadable(f"a report without what is compared: {type(error).__name__} {error}") from error


def compare(base: Sequence[Round], ours: Sequence[Round]) -> list[Verdict]:
    """Return every figure that both sides have in every round; as many rounds of each."""
    parts = dict.fromkeys(part for one in (*base, *ours) for part in one.cpu_us)
    cpu = [Figure(f"CPU us a message: {part}", _cpu_of(part), in_ticks=True) for part in parts]
    found = (_verdict(figure, base, ours) for figure in (*FIGURES, *cpu))
    return [verdict for verdict in found if verdict is not None]


def table(verdicts: Sequence[Verdict], *, base: str, rounds: int) -> Table:
    """Return the comparison as a table."""
    rows: list[list[Cell]] = [
        [
            one.name,
            one.base[1],
            one.ours[1],
            f"{one.ratio:.2f}",
            f"{one.ratios[0]:.2f} - {one.ratios[1]:.2f}",
            one.word,
        ]
        for one in verdicts
    ]
    return Table(
        f"This state of the code over {base}, {rounds} rounds in turn",
        ["median of", "base", "ours", "ours / base", "round by round", ""],
        rows,
        "Inside the noise: the two sides' ranges touch, or are a tick of the kernel apart. Where the bare "
        "loop's rate differs too, the machine changed its speed: believe the ratio and the CPU.",
    )


def differing_packages(base_lock: str, our_lock: str) -> list[str]:
    """Return the packages that two lock files pin differently, or that only one of them has."""
    base, ours = _pins(base_lock), _pins(our_lock)
    return sorted(name for name in base.keys() | ours.keys() if base.get(name) != ours.get(name))


def _middle(runs: Sequence[Mapping[str, float]]) -> float:
    rate = median([run["per_second"] for run in runs])
    if not rate:
        raise Unreadable("a report without a rate")
    return rate


def _cpu_of(part: str) -> Callable[[Round], float | None]:
    return lambda one: one.cpu_us.get(part, 0.0)


def _verdict(figure: Figure, base: Sequence[Round], ours: Sequence[Round]) -> Verdict | None:
    before = [value for value in map(figure.read, base) if value is not None]
    after = [value for value in map(figure.read, ours) if value is not None]
    if len(before) != len(base) or len(after) != len(ours) or not median(before):
        return None
    # A part that idles gets a tick or none; a difference of one tick is none.
    grain = max(1e6 / TICKS_PER_S / one.messages for one in (*base, *ours)) if figure.in_ticks else 0.0
    pairs = [b / a for a, b in zip(before, after, strict=True) if a]
    ratio = median(after) / median(before)
    return Verdict(
        name=figure.name,
        base=_range(before),
        ours=_range(after),
        ratio=ratio,
        ratios=(min(pairs, default=ratio), max(pairs, default=ratio)),
        word=_word(before, after, grain, more_is_better=figure.more_is_better),
    )


def _word(before: Sequence[float], after: Sequence[float], grain: float, *, more_is_better: bool) -> str:
    if len(before) < ROUNDS_MIN:
        return "one round says nothing"
    gap = max(min(after) - max(before), min(before) - max(after))
    if gap <= grain * (1 + ROUNDING):
        return "inside the noise"
    return "better" if (min(after) > max(before)) == more_is_better else "WORSE"


def _range(values: Sequence[float]) -> tuple[float, float, float]:
    return min(values), median(values), max(values)


def _pins(lock: str) -> dict[str, str]:
    """Return versions by package. A pin of a lock file is `name==version` at the beginning of a line."""
    lines = (line.split(";")[0].strip(" \\") for line in lock.splitlines() if line[:1].isalnum())
    pins = (line.partition("==") for line in lines)
    return {name.strip(): version.strip() for name, _, version in pins}


FIGURES: Final = (
    Figure("product, messages/s", lambda one: one.product_per_second, more_is_better=True),
    Figure("bare loop, messages/s", lambda one: one.ceiling_per_second, more_is_better=True),
    Figure("product / bare loop", lambda one: one.ratio, more_is_better=True),
    Figure("p50 ms, paced", lambda one: one.p50_ms),
    Figure("p99 ms, paced", lambda one: one.p99_ms),
    Figure("CPU us a message, all", lambda one: sum(one.cpu_us.values()), in_ticks=True),
)
