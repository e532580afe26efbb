"""The benchmark of head-of-line blocking: its arithmetic, and a tiny run."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from bench.head_of_line import NAME, QUICK, Beside, Recovery, Run, findings
from bench.kit.report import Result

from broker.bench.figures import Latencies

ROOT = Path(__file__).resolve().parents[2]
WELL = Recovery(10, 7, 6, 4, 900.0, 0)


def ran(p99_ms: float, missing: int = 0) -> Run:
    return Run(Latencies(count=10, p99_ms=p99_ms), missing, 5)


@pytest.mark.parametrize(
    ("alone", "beside", "met"), [([4.0], [6.0], True), ([4.0], [6.1], False), ([4.0, 9.0], [8.0, 5.0], True)]
)
def test_the_best_runs_are_compared(alone: list[float], beside: list[float], met: bool) -> None:
    runs = {Beside.NOBODY: alone, Beside.OTHERS: beside, Beside.FAST: [1.0, 99.0]}
    found = findings(QUICK, {kind: [ran(one) for one in of] for kind, of in runs.items()}, WELL)
    assert [aim.met for aim in found.aims] == [met, True]
    assert found.wrong == []


def test_what_never_came_or_came_too_many_at_a_time_is_told() -> None:
    bad = Recovery(10, 7, 6, 5, 900.0, 1)
    runs = {Beside.NOBODY: [ran(1)], Beside.OTHERS: [ran(1, missing=2)], Beside.FAST: [ran(1)]}
    found = findings(QUICK, runs, bad)
    assert [aim.met for aim in found.aims] == [True, False]
    assert len(found.wrong) == 2


def test_a_tiny_run_measures_both(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", f"bench.{NAME}", "--quick", "--out", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3_000:] + done.stderr[-3_000:]
    result = msgspec.json.decode((tmp_path / f"{NAME}.json").read_bytes(), type=Result)
    latency, backlog = result.tables
    assert [row[0] for row in latency.rows] == [kind.value for kind in Beside]
    assert {row[2] for row in latency.rows} == {int(QUICK.fast_per_s * QUICK.seconds)}
    assert backlog.rows[0][0] == QUICK.waiting
