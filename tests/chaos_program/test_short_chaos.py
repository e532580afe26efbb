"""The short run of the chaos harness: every fault, a few seconds of each, and all gates.

Another seed every time would be worth more and could not be done again; `make chaos` draws one.
"""

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from chaos import schedule
from chaos.python import ROOT, SEARCHED
from whole_broker import environment

SEED = 5
MINUTES = 0.5
LONGEST_S = 170


@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(LONGEST_S + 10)
def test_half_a_minute_of_everything_loses_nothing(tmp_path: Path) -> None:
    words = [
        "--brief",
        "--minutes",
        str(MINUTES),
        "--seed",
        str(SEED),
        "--out",
        str(tmp_path),
        "--work",
        str(tmp_path),
    ]
    ended = subprocess.run(
        [sys.executable, "-P", "-m", "chaos", *words],
        env=environment() | {"PYTHONPATH": SEARCHED},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=LONGEST_S,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout[-6_000:] + ended.stderr[-3_000:]
    report = msgspec.json.decode((tmp_path / f"chaos-{SEED}.json").read_bytes())
    assert report["figures"]["acknowledged"] > 100
    # How many of the doomed reach their point depends on the machine; that each can, the full run shows.
    assert sum(report["crash_points"].values()) > 0
    kinds = {kind.kind for kind in (*schedule.PER_MINUTE, *schedule.ONCE)}
    assert kinds <= report["faults"].keys() | report["skipped"].keys()
