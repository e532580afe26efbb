"""Append-only files of JSON lines: the ledger outside the system under test, and the journal of faults.

A line is one `write` to a file opened for appending, so that lines of several processes never mix and a
process that is killed leaves whole lines behind. Nothing is ever changed.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

Line = dict[str, Any]  # Any: JSON


class Notes:
    """A file to append to; each line says what, and when (`at`, seconds since the epoch)."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)

    def append(self, what: str, **fields: object) -> float:
        """Append a line and return its time."""
        # Not `time.time`: the clock of the process that notes its own death may have been stepped.
        at = time.clock_gettime(time.CLOCK_REALTIME)
        os.write(self._file, msgspec.json.encode({"at": at, "what": what, **fields}) + b"\n")
        return at


def lines(path: Path) -> Iterator[Line]:
    """Yield the lines of such a file; one that was cut off is left out."""
    if not path.exists():
        return
    with path.open("rb") as source:
        for line in source:
            if line.endswith(b"\n"):
                yield msgspec.json.decode(line)
