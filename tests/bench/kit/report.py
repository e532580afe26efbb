"""A benchmark's result: what it is made of, as Markdown, as JSON with its plots, and on a terminal.

Figures in the files are written with as many digits as they are worth; the JSON keeps them whole. Nothing
here depends on the clock or on the machine, so the same result writes the same bytes.
"""

from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct, field
from rich.console import Console

from bench.kit.svg import line_chart
from bench.kit.values import Curve as Curve
from broker.bench.tables import Cell as Cell
from broker.bench.tables import Table as Table
from broker.bench.tables import shown as shown
from broker.bench.tables import text_of


class Aim(Struct):
    """What was aimed at, what was reached, and whether that is enough."""

    what: str
    aim: str
    figure: str
    met: bool


class Findings(Struct):
    """What a program found. `wrong` names what makes the figures worthless (a lost message) and fails the
    run."""

    tables: list[Table] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    aims: list[Aim] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


class Result(Struct, kw_only=True):
    """Findings, and what somebody needs to repeat and to judge them."""

    name: str
    title: str
    command: str
    environment: dict[str, str]
    seconds: float
    tables: list[Table] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    aims: list[Aim] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


AIM_COLUMNS: Final = ["aim", "wanted", "measured", "met"]


def write(result: Result, out: Path) -> None:
    """Write `<name>.json`, `<name>.md` and `<name>-<curve>.svg`, making the directory."""
    out.mkdir(parents=True, exist_ok=True)
    (out / f"{result.name}.json").write_bytes(
        msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n"
    )
    (out / f"{result.name}.md").write_text(markdown(result))
    for curve in result.curves:
        (out / plot_name(result, curve)).write_text(line_chart(curve))


def show(result: Result, console: Console) -> None:
    """Print the result."""
    for table in tables_of(result):
        console.print(shown(table))
    for note in result.notes:
        console.print(note, style="dim", markup=False)
    for wrong in result.wrong:
        console.print(f"WRONG: {wrong}", style="bold red", markup=False)
    facts = {**result.environment, "took": f"{result.seconds:.0f} s"}
    console.print("  ".join(f"{name} {value}" for name, value in facts.items()), style="dim", markup=False)


def markdown(result: Result) -> str:
    """Return the result as a page."""
    wrong = [f"**Wrong: {wrong}**" for wrong in result.wrong]
    plots = [f"![{curve.title}]({plot_name(result, curve)})" for curve in result.curves]
    tables = [part for table in tables_of(result) for part in markdown_table(table)]
    notes = ["\n".join(f"- {note}" for note in result.notes)] if result.notes else []
    facts = "; ".join(f"{name}: {value}" for name, value in result.environment.items())
    how = f"`{result.command}`, {result.seconds:.0f} s. {facts}."
    return "\n\n".join([f"# {result.title}", *wrong, *tables, *plots, *notes, how]) + "\n"


def markdown_table(table: Table) -> list[str]:
    """Return a table's parts: heading, table, note."""
    numeric = [table.is_numeric(column) for column in range(len(table.columns))]
    lines = [
        _line(table.columns),
        _line(["---:" if right else "---" for right in numeric]),
        *(_line([text_of(cell) for cell in row]) for row in table.rows),
    ]
    heading = [f"## {table.title}"] if table.title else []
    return [*heading, "\n".join(lines), *([table.note] if table.note else [])]


def aims_table(aims: list[Aim]) -> Table:
    """Return the aims as a table that says of each whether it was met."""
    rows: list[list[Cell]] = [[aim.what, aim.aim, aim.figure, "yes" if aim.met else "NO"] for aim in aims]
    return Table("Aims", AIM_COLUMNS, rows)


def tables_of(result: Result) -> list[Table]:
    """Return the aims, where there are any, and the tables."""
    return [*([aims_table(result.aims)] if result.aims else []), *result.tables]


def plot_name(result: Result, curve: Curve) -> str:
    """Return the name of a plot's file."""
    return f"{result.name}-{curve.name}.svg"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
