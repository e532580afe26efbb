"""The benchmark of pushes, tiny: every way posts every message once, signed where it says so."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from bench.kit.report import Result

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.e2e
def test_quick_run_posts_every_message_in_every_way(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.transport_rate", "--quick", "--out", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "tests"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout.decode()
    result = msgspec.json.decode((tmp_path / "transport_rate.json").read_bytes(), type=Result)
    [table] = result.tables
    assert [row[0] for row in table.rows] == ["bare", "push client", "delivery"]
    assert all(isinstance(cell, int | float) for row in table.rows for cell in row[1:])
    assert result.wrong == []
