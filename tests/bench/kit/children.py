"""Runs a program as a process of its own and ends it in order when this one is told to stop.

It gets a session of its own, so a Ctrl-C at the terminal reaches it once, as the SIGTERM sent from here: a
program that is cancelled twice may leave behind what it was just ending.
"""

import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

END_S: Final = 180.0
"""A broker stops within two grace periods of a minute; after that it is killed."""


def stop_on_sigterm() -> None:
    """Make SIGTERM end this process as Ctrl-C does, also where a shell made it ignore Ctrl-C."""
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, _interrupt)


def run_child(
    argv: Sequence[str], *, env: Mapping[str, str], cwd: Path | None = None, log: Path | None = None
) -> int:
    """Run a program to its end and return its exit code; its output goes on, or into `log`.

    Raises: KeyboardInterrupt, after the program has ended.
    """
    if log is None:
        return _wait(subprocess.Popen(argv, env=env, cwd=cwd, start_new_session=True))
    with log.open("wb") as sink:
        return _wait(
            subprocess.Popen(argv, env=env, cwd=cwd, start_new_session=True, stdout=sink, stderr=sink)
        )


def _wait(child: "subprocess.Popen[bytes]") -> int:
    try:
        return child.wait()
    except KeyboardInterrupt:
        _end(child)
        raise


def _end(child: "subprocess.Popen[bytes]") -> None:
    """Ask it to stop and wait; impatience at the terminal is answered, not obeyed."""
    before = {signum: signal.signal(signum, _patience) for signum in (signal.SIGTERM, signal.SIGINT)}
    try:
        child.terminate()
        child.wait(END_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _patience(signum: int, frame: FrameType | None) -> None:
    sys.stderr.write("ending what was started\n")
