"""A line chart as SVG: one y axis, a line and dots a series, its name and last value at the end of its line.

Names at the lines stand in for a legend: nobody has to match colours. Light and dark follow the reader's
system (`prefers-color-scheme`, which browsers honour inside an <img> too). Text is in the text's colour, only
marks carry a series'. Deterministic: coordinates have one decimal, and nothing depends on the time.
"""

from collections.abc import Iterator
from html import escape
from typing import Final

from bench.kit.axes import Axis, linear, logarithmic, spread
from bench.kit.values import Curve, short
from broker.bench.tables import text_of

WIDTH: Final = 800
HEIGHT: Final = 420
LEFT: Final = 64
TOP: Final = 84
BOTTOM: Final = HEIGHT - 60
LABEL_GAP: Final = 12
CHAR: Final = 7.4
"""Width of a character of a 13 px label, somewhat more than the average: fonts differ."""
LABEL_MAX: Final = 36
"""Characters; a longer label is cut, or the lines would have no room left."""
LINE: Final = 17
# Of similar weight on both grounds and told apart by the colour-blind, in this order; a ninth repeats.
LIGHT: Final = ("#2a78d6", "#1baf7a", "#eda100", "#008300", "#4a3aa7", "#e34948", "#e87ba4", "#eb6834")
DARK: Final = ("#3987e5", "#199e70", "#c98500", "#008300", "#9085e9", "#e66767", "#d55181", "#d95926")
STYLE: Final = """\
svg { --ground: #fcfcfb; --ink: #0b0b0b; --soft: #52514e; --grid: #e4e3df; --axis: #b5b4ae; %s }
@media (prefers-color-scheme: dark) {
  svg { --ground: #1a1a19; --ink: #ffffff; --soft: #c3c2b7; --grid: #33332f; --axis: #62615b; %s }
}
text { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; fill: var(--soft); }
.title { font-size: 17px; font-weight: 600; fill: var(--ink); }
.name { fill: var(--ink); }
.value { font-weight: 600; fill: var(--ink); font-variant-numeric: tabular-nums; }
.tick { font-size: 12px; font-variant-numeric: tabular-nums; }
.grid { stroke: var(--grid); stroke-width: 1; }
.axis { stroke: var(--axis); stroke-width: 1; }
.lead { stroke: var(--axis); stroke-width: 1; fill: none; }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round; }
.dot { stroke: var(--ground); stroke-width: 2; }"""


def line_chart(curve: Curve) -> str:
    """Return the chart as a document. Series without points are left out."""
    series = {name: sorted(points) for name, points in curve.series.items() if points}
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    right = WIDTH - _label_room(series)
    across = logarithmic(xs, LEFT, right, snug=True) if curve.log_x else linear(xs, LEFT, right)
    up = logarithmic(ys, BOTTOM, TOP, snug=False) if curve.log_y else linear(ys, BOTTOM, TOP)
    body = [*_frame(curve, across, up), *_lines(series, across, up), *_labels(series, across, up)]
    return "\n".join([*_head(curve), *body, "</svg>"]) + "\n"


def _head(curve: Curve) -> Iterator[str]:
    colours = (" ".join(f"--s{n}: {colour};" for n, colour in enumerate(row)) for row in (LIGHT, DARK))
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" '
        f'height="{HEIGHT}" role="img" aria-label="{escape(curve.title)}">'
    )
    yield f"<title>{escape(curve.title)}</title>"
    yield "<style>\n" + STYLE % tuple(colours) + "\n</style>"
    yield f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" style="fill: var(--ground)"/>'


def _frame(curve: Curve, across: Axis, up: Axis) -> Iterator[str]:
    yield _text("title", 24, 34, curve.title)
    yield _text("", 24, 58, curve.y_label)
    for tick in up.ticks:
        y = up.at(tick)
        yield f'<path class="grid" d="M{LEFT} {y:.1f}H{across.stop:.1f}"/>'
        yield _text("tick", LEFT - 8, y + 4, short(tick), anchor="end")
    yield f'<path class="axis" d="M{LEFT} {BOTTOM}H{across.stop:.1f}"/>'
    for tick in across.ticks:
        x = across.at(tick)
        yield f'<path class="axis" d="M{x:.1f} {BOTTOM}v5"/>'
        yield _text("tick", x, BOTTOM + 20, short(tick), anchor="middle")
    yield _text("", (LEFT + across.stop) / 2, BOTTOM + 44, curve.x_label, anchor="middle")


def _lines(series: dict[str, list[tuple[float, float]]], across: Axis, up: Axis) -> Iterator[str]:
    for number, points in enumerate(series.values()):
        colour = f"var(--s{number % len(LIGHT)})"
        places = [(across.at(x), up.at(y)) for x, y in points]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        yield f'<path class="line" style="stroke: {colour}" d="M{path}"/>'
        for (x, y), point in zip(places, points, strict=True):
            hint = f"<title>{text_of(point[0])}: {text_of(point[1])}</title>"
            at = f'cx="{x:.1f}" cy="{y:.1f}" r="4.5"'
            yield f'<circle class="dot" style="fill: {colour}" {at}>{hint}</circle>'


def _labels(series: dict[str, list[tuple[float, float]]], across: Axis, up: Axis) -> Iterator[str]:
    """Write every series' last value and name at the right, moved apart, with a thin line to its last dot."""
    ends = [(across.at(points[-1][0]), up.at(points[-1][1])) for points in series.values()]
    heights = spread([y for _, y in ends], gap=LINE, low=TOP, high=BOTTOM)
    x = across.stop + LABEL_GAP
    for number, (name, points) in enumerate(series.items()):
        (end_x, end_y), y = ends[number], heights[number]
        if abs(y - end_y) > 1 or x - end_x > LABEL_GAP + 1:
            yield f'<path class="lead" d="M{end_x + 7:.1f} {end_y:.1f}L{x:.1f} {y:.1f}"/>'
        yield f'<circle style="fill: var(--s{number % len(LIGHT)})" cx="{x + 5:.1f}" cy="{y:.1f}" r="4"/>'
        figure, _, rest = _label(name, points).partition(" ")
        value = f'<tspan class="value">{figure}</tspan>'
        yield f'<text class="name" x="{x + 14:.1f}" y="{y + 4:.1f}">{value} {escape(rest)}</text>'


def _label_room(series: dict[str, list[tuple[float, float]]]) -> float:
    """Return how wide the right margin must be for the longest label."""
    longest = max((len(_label(name, points)) for name, points in series.items()), default=0)
    return longest * CHAR + LABEL_GAP + 14 + 12


def _label(name: str, points: list[tuple[float, float]]) -> str:
    words = f"{text_of(points[-1][1])} {name}"
    return words if len(words) <= LABEL_MAX else words[: LABEL_MAX - 1] + "…"


def _text(kind: str, x: float, y: float, words: str, *, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(words)}</text>'
