"""The clock that steps, in a process of its own."""

import subprocess
import sys
from pathlib import Path

from chaos import clock
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
