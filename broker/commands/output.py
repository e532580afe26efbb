"""What a command prints: tables and fields for people, JSON with the contract's field names for programs."""

import sys
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar

from msgspec import UNSET, Struct
from rich.console import Console
from rich.table import Table
from rich.text import Text

from schema.codec import encode

RowT = TypeVar("RowT", bound=Struct)

PIPE_COLUMNS: Final = 10_000
"""Width of what is no terminal: nothing is cut or wrapped there."""
CELL_CHARS_MAX: Final = 60

Column = tuple[str, Callable[[Any], object]]  # of whichever row the command shows


def write_json(value: object) -> None:
    """Print one JSON document on one line."""
    sys.stdout.write(encode(value).decode() + "\n")
    sys.stdout.flush()


def write_rows(rows: Iterable[RowT], columns: Sequence[Column], *, as_json: bool) -> None:
    """Print a list: a table, or one JSON document a line, as they come."""
    if as_json:
        for row in rows:
            write_json(row)
        return
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for name, _ in columns:
        table.add_column(name, no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell(show(row))) for _, show in columns))
    console().print(table)


def write_fields(value: Struct, *, as_json: bool, leave_out: Sequence[str] = ()) -> None:
    """Print one thing: its fields under each other, or a JSON document."""
    if as_json:
        write_json(value)
        return
    table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name in value.__struct_fields__:
        if name not in leave_out and (shown := text_of(getattr(value, name))):
            table.add_row(name, Text(shown))
    console().print(table)


def write_line(text: str) -> None:
    """Print a sentence."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def cell(value: object) -> str:
    """Return a value as it stands in a table: on one line, cut to a sane length."""
    line = " ".join(text_of(value).split())
    return line if len(line) <= CELL_CHARS_MAX else line[: CELL_CHARS_MAX - 1] + "\N{HORIZONTAL ELLIPSIS}"


def text_of(value: object) -> str:
    """Return a value for people; nothing where there is none."""
    if value is None or value is UNSET or value == [] or value == {}:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    if isinstance(value, (str, int, float)):
        return str(value)
    return encode(value).decode().strip('"')


def console() -> Console:
    """Return where tables go: the terminal in its width, anything else uncut."""
    width = None if sys.stdout.isatty() else PIPE_COLUMNS
    return Console(file=sys.stdout, width=width, highlight=False, emoji=False, markup=False)
