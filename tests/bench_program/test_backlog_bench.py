"""The benchmark of backlogs: how it cuts a drain into tenths, and a tiny run that loses nothing."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from bench.backlog import _tenths
from bench.kit.report import Result

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("points", "rates"),
    [
        # A steady drain: every tenth at the same rate.
        ([(float(second), 10 * second) for second in range(11)], [10.0] * 10),
        # All of it between two looks.
        ([(0.0, 0), (2.0, 100)], [50.0] * 10),
        # Nothing for a while in the middle: the tenth that ended it is slow.
        (
            [(0.0, 0), (1.0, 50), (11.0, 60), (12.0, 100)],
            [50.0] * 5 + [1.0] + [40.0] * 4,
        ),
    ],
)
def test_a_drain_is_cut_into_tenths_with_the_rate_of_each(
    points: list[tuple[float, int]], rates: list[float]
) -> None:
    assert [rate for _, rate in _tenths(points, 100)] == rates


@pytest.mark.bench
@pytest.mark.e2e
def test_quick_run_brings_every_message_of_the_backlog_and_beside_it(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "tests"), "TMPDIR": str(tmp_path / "tmp")}
    command = (sys.executable, "-m", "bench.backlog", "--quick", "--kinds", "refuse,pull")
    ended = subprocess.run(
        (*command, "--out", str(tmp_path / "out")),
        cwd=ROOT, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    result = msgspec.json.decode((tmp_path / "out" / "backlog.json").read_bytes(), type=Result)
    assert result.wrong == []
    healthy, memory, drain = result.tables
    assert [row[1] for row in healthy.rows] == [0, 200, 800, 2_000, 0]
    assert [row[2] for row in healthy.rows] == [1, 1, 1, 2, 1]
    assert all(isinstance(cell, float) and cell > 0 for row in healthy.rows for cell in row[3:8])
    assert [row[0] for row in memory.rows][-1] == 0
    assert len(drain.rows) == 10
    assert all(row[1] for row in drain.rows)
    assert {curve.name for curve in result.curves} == {"healthy", "memory", "drain"}
    assert os.listdir(tmp_path / "tmp") == []
