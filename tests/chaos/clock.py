"""A clock that steps: an offset from a small shared file, added to `time.time` and `time.time_ns` of a child.

Only what asks these two is fooled: `time.monotonic`, `datetime.now`, the servers and the kernel are not.
"""

import mmap
import struct
import time
from pathlib import Path

_OFFSET = struct.Struct("=d")


def write(path: Path, offset_s: float) -> None:
    """Set how far the clock of whoever has the file installed is ahead."""
    if not path.exists():
        path.write_bytes(_OFFSET.pack(0.0))
    with path.open("r+b") as file:
        file.write(_OFFSET.pack(offset_s))


def install(path: Path) -> None:
    """Step this process's clock by what the file says, from now on and whenever it changes."""
    with path.open("rb") as file:
        shared = mmap.mmap(file.fileno(), _OFFSET.size, prot=mmap.PROT_READ)
    true_time, true_time_ns = time.time, time.time_ns

    def offset_s() -> float:
        offset: float = _OFFSET.unpack_from(shared)[0]
        return offset

    time.time = lambda: true_time() + offset_s()
    time.time_ns = lambda: true_time_ns() + int(offset_s() * 1e9)
