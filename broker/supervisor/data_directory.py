"""The data directory of `up`: who holds it, and what an earlier `up` left running in it.

Two locks. `lock` is held by the supervisor alone: a second `up` fails on it at once. `children.lock` is
handed to every child as an open file: it stays held until the last child is gone, so after a kill -9 of the
supervisor the next one knows whether all of its predecessor's children have ended, without trusting pids.
"""

import fcntl
import os
import signal
import time
from pathlib import Path
from typing import Final, Self

from broker.servers.process import require_ours, runs_with
from schema.errors import Conflict

POLL_S: Final = 0.05
KILLED_S: Final = 5.0


class DirectoryInUse(Conflict):
    """Another `up` runs on this data directory."""

    code = "data_directory_in_use"


class DataDirectory:
    """The directory, locked while the context is open."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self.children_lock = -1
        """Open file to hand to every child."""
        self._lock = -1
        self._notes = self.path / "children"

    def __enter__(self) -> Self:
        """Take the directory, made if it is new.

        Raises: DirectoryInUse; ServerFailed when it belongs to another user.
        """
        # Not 700: root's unprivileged PostgreSQL must pass through. Everything inside is private by itself.
        self.path.mkdir(mode=0o711, parents=True, exist_ok=True)
        require_ours(self.path)
        self._lock = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        if not _try_lock(self._lock):
            holder = os.pread(self._lock, 20, 0).decode(errors="replace").strip() or "unknown"
            os.close(self._lock)
            raise DirectoryInUse(
                f"agent-broker up (process {holder}) is already running on {self.path}; "
                "stop it first, or choose another --data-dir"
            )
        os.ftruncate(self._lock, 0)
        os.pwrite(self._lock, f"{os.getpid()}\n".encode(), 0)
        self.children_lock = os.open(self.path / "children.lock", os.O_RDWR | os.O_CREAT, 0o600)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.children_lock)
        os.close(self._lock)

    def note_children(self, children: dict[int, str]) -> None:
        """Write down which processes to end where this supervisor cannot: pid, mark in the command line."""
        self._notes.write_text("".join(f"{pid} {mark}\n" for pid, mark in children.items()))

    def wait_for_orphans(self, patience_s: float) -> bool:
        """Wait until the children of an earlier `up` have ended, killing them when patience runs out.

        They are ending by themselves, having lost their supervisor. Returns whether there were any.

        Raises: DirectoryInUse when some cannot be ended.
        """
        if _try_lock(self.children_lock):
            return False
        if self._locked_within(patience_s):
            return True
        for line in self._notes.read_text().splitlines() if self._notes.exists() else ():
            pid, _, mark = line.partition(" ")
            if runs_with(int(pid), mark):
                os.kill(int(pid), signal.SIGKILL)
        if not self._locked_within(KILLED_S):
            raise DirectoryInUse(f"processes of an earlier run still use {self.path}; end them first")
        return True

    def _locked_within(self, seconds: float) -> bool:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if _try_lock(self.children_lock):
                return True
            time.sleep(POLL_S)
        return False


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
