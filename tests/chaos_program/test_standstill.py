"""A machine that stood still is noted, and so is how long a process was out of touch that slept on it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from chaos.deployment import LEASE_MS
from chaos.notes import lines
from chaos.python import ROOT, SEARCHED
from chaos.standstill import KIND
from chaos.verdict import lost_leases
from whole_broker import environment, until

PROGRAM = """
import sys
from pathlib import Path
from chaos.journal import Journal
from chaos.standstill import watched
journal = Journal(Path(sys.argv[1]))
with watched(journal):
    journal.say("watching")
    sys.stdin.readline()
"""
STILL_S = 1.5


def test_what_stood_still_is_noted_with_its_time(tmp_path: Path) -> None:
    notes = tmp_path / "journal"
    with subprocess.Popen(
        [sys.executable, "-P", "-c", PROGRAM, str(notes)],
        env=environment() | {"PYTHONPATH": SEARCHED},
        cwd=ROOT,
        stdin=subprocess.PIPE,
    ) as process:
        until(lambda: any(lines(notes)), what="the watch")
        stopped = time.time()
        os.kill(process.pid, signal.SIGSTOP)
        time.sleep(STILL_S)  # which is what is measured
        os.kill(process.pid, signal.SIGCONT)
        until(lambda: any(line["what"] == "fault" for line in lines(notes)), what="the note")
        process.communicate(b"\n", timeout=30)
    noted = [line for line in lines(notes) if line["what"] == "fault"]
    assert {line["kind"] for line in noted} == {KIND}
    assert any(line["since"] < stopped + STILL_S / 2 < line["until"] for line in noted)


def test_a_process_that_slept_through_the_end_of_its_lease_was_out_of_touch_for_longer(
    tmp_path: Path,
) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "worker-1.log").write_text(
        '{"at":"2026-11-22T12:00:10.000Z","event":"lease.lost","trade":"deliver","shard":0,"late_ms":3000}\n'
        '{"at":"2026-11-22T12:00:10.000Z","event":"lease.lost","trade":"route","shard":0,"late_ms":3000}\n'
    )
    [spell] = lost_leases(tmp_path)
    assert spell.until - spell.since == LEASE_MS / 1_000 + 3
