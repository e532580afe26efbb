"""The benchmark of floods: what its aim compares, and a tiny run of all of it."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from bench.flood import SLOWER_MAX, Measured, findings
from bench.kit.report import Result

ROOT = Path(__file__).resolve().parents[2]


def phases(alone_ms: float, flooded_ms: float, *, missing: int = 0) -> list[Measured]:
    return [
        Measured("by itself", [alone_ms] * 10, 0),
        Measured("flood, fair lanes", [flooded_ms] * 10, missing),
        Measured("flood, one lane", [1_000.0] * 10, 0),
    ]


@pytest.mark.parametrize(("flooded_ms", "met"), [(10 * SLOWER_MAX, True), (10 * SLOWER_MAX + 1, False)])
def test_the_aim_compares_the_victims_p99_with_its_own(flooded_ms: float, met: bool) -> None:
    found = findings(phases(10.0, flooded_ms), 1_000)
    assert [aim.met for aim in found.aims] == [met]
    assert found.wrong == []


def test_messages_that_did_not_come_are_told() -> None:
    assert findings(phases(1.0, 1.0, missing=3), 1_000).wrong == ["flood, fair lanes: 3 messages missing"]


def test_a_percentile_is_of_the_sorted_times() -> None:
    measured = Measured("x", [3.0, 1.0, 2.0], 0)
    assert (measured.at(0.5), measured.at(0.99), measured.at(1.0)) == (2.0, 3.0, 3.0)


@pytest.mark.bench
@pytest.mark.e2e
def test_a_tiny_run_measures_every_phase(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench.flood", "--quick", "--out", str(tmp_path)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests")},
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stdout[-2_000:] + done.stderr[-2_000:]
    result = msgspec.json.decode((tmp_path / "flood.json").read_bytes(), type=Result)
    assert len(result.tables[0].rows) == 4
