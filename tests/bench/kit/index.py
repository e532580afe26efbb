"""The front page of a directory of results: every aim beside what was measured, and where to read on."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from bench.kit.report import Cell, Result, Table, markdown_table, plot_name

FILE: Final = "README.md"


def write_index(out: Path, names: Sequence[str], failed: Mapping[str, int]) -> None:
    """Write the index over the results that are there, in the order of `names`. `failed` are exit codes."""
    out.mkdir(parents=True, exist_ok=True)
    (out / FILE).write_text(index(read_results(out, names), failed))


def read_results(out: Path, names: Sequence[str]) -> list[Result]:
    """Return the results that are there and whole."""
    found = []
    for name in names:
        try:
            found.append(msgspec.json.decode((out / f"{name}.json").read_bytes(), type=Result))
        except (OSError, msgspec.MsgspecError):
            continue
    return found


def index(results: Sequence[Result], failed: Mapping[str, int]) -> str:
    """Return the page."""
    parts = [
        "# Benchmarks",
        "Written by `make bench`; each page says with which command, on what and when the machine was busy. "
        "How to read them: figures of one page compare with each other, those of two pages only roughly.",
        *(f"**{name} failed with exit code {code}.**" for name, code in failed.items()),
        *markdown_table(_aims(results)),
        *markdown_table(_pages(results)),
    ]
    return "\n\n".join(parts) + "\n"


def _aims(results: Sequence[Result]) -> Table:
    rows: list[list[Cell]] = [
        [_link(result), aim.what, aim.aim, aim.figure, "yes" if aim.met else "**no**"]
        for result in results
        for aim in result.aims
    ]
    met = sum(aim.met for result in results for aim in result.aims)
    return Table(
        "Aims", ["benchmark", "aim", "wanted", "measured", "met"], rows, f"{met} of {len(rows)} met."
    )


def _pages(results: Sequence[Result]) -> Table:
    rows: list[list[Cell]] = [
        [
            _link(result),
            ", ".join(f"[{curve.title}]({plot_name(result, curve)})" for curve in result.curves),
            f"`{result.command}`",
            f"{result.seconds:,.0f} s",
            result.environment.get("commit", ""),
            result.environment.get("load before", ""),
            "; ".join(result.wrong),
        ]
        for result in results
    ]
    columns = ["benchmark", "plots", "command", "took", "commit", "load before", "wrong"]
    return Table("Pages", columns, rows)


def _link(result: Result) -> str:
    return f"[{result.title}]({result.name}.md)"
