"""A table of figures: what it is made of, how a number is written, and how a terminal shows it."""

import math

from msgspec import Struct
from rich.table import Table as Shown

Cell = str | int | float | None


class Table(Struct):
    """Figures side by side. Numbers are aligned to the right and rounded where they are shown."""

    title: str
    columns: list[str]
    rows: list[list[Cell]]
    note: str = ""

    def is_numeric(self, column: int) -> bool:
        """Tell whether a column holds numbers and nothing else (empty cells apart)."""
        cells = [row[column] for row in self.rows if column < len(row) and row[column] is not None]
        return bool(cells) and all(isinstance(cell, int | float) for cell in cells)


def text_of(value: Cell) -> str:
    """Write a table's cell: whole numbers with thousands, others with three digits that count."""
    match value:
        case None:
            return ""
        case str():
            return value
        case int():
            return f"{value:,}"
    if not math.isfinite(value):
        return str(value)
    if value == 0 or abs(value) >= 99.95:
        return f"{value:,.0f}"
    decimals = 2 - math.floor(math.log10(abs(value)))
    return f"{value:.{min(decimals, 6)}f}"


def shown(table: Table) -> Shown:
    """Return a table as rich prints it."""
    shown = Shown(title=table.title or None, caption=table.note or None)
    for number, heading in enumerate(table.columns):
        shown.add_column(heading, justify="right" if table.is_numeric(number) else "left")
    for row in table.rows:
        shown.add_row(*(text_of(cell) for cell in row))
    return shown
