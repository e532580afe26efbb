"""The clock that steps, in a process of its own."""

import subprocess
import sys
import time
from pathlib import Path

from chaos import clock
from chaos.notes import lines
from chaos.python import SEARCHED
from whole_broker import environment

HOUR_S = 3600


def test_a_child_s_clock_follows_the_file(tmp_path: Path) -> None:
    shared = tmp_path / "clock"
    clock.write(shared, 0.0)
    code = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from chaos import clock\n"
        "true = time.time\n"
        f"clock.install(Path({str(shared)!r}))\n"
        "for _ in sys.stdin:\n"
        "    print(round(time.time() - true()), round(time.time_ns() / 1e9 - true()), flush=True)"
    )
    child = subprocess.Popen(
        [sys.executable, "-P", "-c", code],
        env=environment() | {"PYTHONPATH": SEARCHED},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    for step_s in (0, HOUR_S, -HOUR_S, 0):
        clock.write(shared, step_s)
        child.stdin.write("\n")
        child.stdin.flush()
        assert child.stdout.readline().split() == [str(step_s)] * 2
    child.communicate()


def test_what_is_noted_bears_the_true_time_whatever_the_clock_of_the_process_says(tmp_path: Path) -> None:
    shared, noted = tmp_path / "clock", tmp_path / "notes"
    clock.write(shared, HOUR_S)
    code = (
        "from pathlib import Path\n"
        "from chaos import clock, notes\n"
        f"clock.install(Path({str(shared)!r}))\n"
        f"notes.Notes(Path({str(noted)!r})).append('fired')"
    )
    child = [sys.executable, "-P", "-c", code]
    subprocess.run(child, env=environment() | {"PYTHONPATH": SEARCHED}, check=True)
    assert abs(next(lines(noted))["at"] - time.time()) < HOUR_S / 2
