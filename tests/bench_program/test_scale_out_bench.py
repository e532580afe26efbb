"""The benchmark of scaling out: a tiny run measures every layout it names, on one node and on three, and
watches shards spread."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from bench.kit.report import Result

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.bench
@pytest.mark.e2e
@pytest.mark.timeout(400)
def test_quick_run_measures_layouts_on_one_node_and_on_three_and_watches_shards_spread(
    tmp_path: Path,
) -> None:
    (tmp_path / "tmp").mkdir()
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "tests"), "TMPDIR": str(tmp_path / "tmp")}
    command = (sys.executable, "-m", "bench.scale_out", "--quick", "--out", str(tmp_path / "out"))
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    result = msgspec.json.decode((tmp_path / "out" / "scale_out.json").read_bytes(), type=Result)
    assert result.wrong == []
    rates, costs, nodes, spreading = result.tables
    measured = [
        ["one node", "1 worker"],
        ["one node", "routing and delivery apart"],
        ["three nodes", "1 worker"],
    ]
    assert [row[:2] for row in rates.rows] == measured
    assert [row[:2] for row in costs.rows] == measured
    assert all(row[2] for row in rates.rows)
    [row] = nodes.rows
    assert all(count > 0 for count in row[1:4])
    assert [row[0] for row in spreading.rows] == ["three join one", "one leaves", "one is killed"]
    joined = result.curves[0].series
    assert {name: points[-1][1] for name, points in joined.items()} == {
        "worker-1": 2, "worker-2": 2, "worker-3": 1, "worker-4": 1,
    }  # fmt: skip
    assert os.listdir(tmp_path / "tmp") == []
