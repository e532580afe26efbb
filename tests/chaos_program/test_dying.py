"""Children of the harness end with it, however that ended."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from chaos.python import SEARCHED
from whole_broker import environment, until

CHILD = """
import time
from chaos.dying import die_with_parent
die_with_parent()
print("up", flush=True)
time.sleep(600)
"""
PARENT = f"""
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-P", "-c", {CHILD!r}], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
"""


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def test_a_child_ends_with_a_driver_that_is_killed_outright() -> None:
    with subprocess.Popen(
        [sys.executable, "-P", "-c", PARENT],
        env=environment() | {"PYTHONPATH": SEARCHED},
        stdout=subprocess.PIPE,
    ) as driver:
        assert driver.stdout is not None
        child = int(driver.stdout.readline())
        assert lives(child)
        os.kill(driver.pid, signal.SIGKILL)
        until(lambda: not lives(child), what="the end of the child")
