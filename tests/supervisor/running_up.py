"""Starts `up` with tiny children and waits for what it does."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

RUN_UP = Path(__file__).with_name("run_up.py")
PATIENCE_S = 60.0
KNOWN = ("PATH", "HOME", "LANG", "PYTHONPATH", "TMPDIR")


def until(found: Callable[[], object], *, what: str) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not found():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.02)


class RunningUp:
    """One `up`, its output, and the notes of its children (in `directory`)."""

    def __init__(self, directory: Path, *stages: str, **settings: str) -> None:
        self.directory = directory
        self.data_dir = directory / "data"
        self._output = directory / f"output-{time.monotonic_ns()}"
        with self._output.open("wb") as sink:
            self.process = subprocess.Popen(
                [sys.executable, str(RUN_UP), str(directory), *stages],
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={
                    **{name: os.environ[name] for name in KNOWN if name in os.environ},
                    "DATA_DIR": str(self.data_dir),
                    "PORT": "0",
                    "METRICS_PORT": "0",
                    **settings,
                },
            )

    @property
    def output(self) -> str:
        return self._output.read_text()

    def events(self) -> list[dict[str, object]]:
        return [json.loads(line) for line in self.output.splitlines() if line.startswith("{")]

    def wait_ready(self) -> None:
        until(lambda: "Ready after" in self.output or self._ended(), what="the ready line")
        assert "Ready after" in self.output, self.output

    def starts(self, name: str) -> list[int]:
        """Return the process ids under which a child was started."""
        notes = self.directory / f"{name}.starts"
        return [int(line) for line in notes.read_text().splitlines()] if notes.exists() else []

    def ends(self) -> list[str]:
        """Return the children that ended cleanly, in order."""
        notes = self.directory / "ends"
        return notes.read_text().split() if notes.exists() else []

    def signal(self, signum: signal.Signals) -> None:
        self.process.send_signal(signum)

    def stop(self) -> int:
        self.signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)

    def _ended(self) -> bool:
        return self.process.poll() is not None


@contextmanager
def running_up(directory: Path, *stages: str, **settings: str) -> Iterator[RunningUp]:
    """Run `up` while the context is open, and leave nothing running."""
    up = RunningUp(directory, *stages, **settings)
    try:
        yield up
    finally:
        if up.process.poll() is None:
            up.stop()


def is_alive(pid: int) -> bool:
    """Tell whether a process lives; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False
