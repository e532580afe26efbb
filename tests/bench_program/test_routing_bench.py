"""The routing benchmark: what its aims compare, and a tiny run of all of it."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from bench.deciding import Deciding
from bench.kit.report import Findings, Result
from bench.routing import Rate, Routed, growth, tell_changes, tell_decisions, tell_rates

ROOT = Path(__file__).resolve().parents[2]


def decided(agents: int, one_us: float, *, candidates: int = 50, capabilities: int = 10) -> Deciding:
    return Deciding(
        agents=agents,
        capabilities=capabilities,
        candidates=candidates,
        bare_us=0.5,
        one_us=one_us,
        two_us=one_us,
        cold_us=9.0,
        churned_us=9.0,
        explained_us=2.0,
        build_s=0.1,
        index_bytes=1_000,
    )


@pytest.mark.parametrize(
    ("few_us", "many_us", "met"),
    [(5.0, 10.0, [True, True]), (4.9, 10.0, [True, False]), (9.0, 10.1, [False, True])],
)
def test_decision_aims_are_met_at_their_limit_and_not_beyond(
    few_us: float, many_us: float, met: list[bool]
) -> None:
    findings = Findings()
    tell_decisions(findings, [decided(100, few_us), decided(100_000, many_us, candidates=50_000)])
    assert [aim.met for aim in findings.aims] == met


def test_growth_is_that_of_the_worst_number_of_capabilities_and_only_where_there_is_a_choice() -> None:
    nothing_to_choose = decided(100, 1.0, candidates=1, capabilities=1_000)
    many = [decided(1_000, 4.0, capabilities=1_000), decided(9_000, 6.0, capabilities=1_000)]
    assert growth([nothing_to_choose, *many]) == 1.5
    assert growth([nothing_to_choose, *many, decided(100, 2.0), decided(9_000, 4.0)]) == 2.0
    assert growth([nothing_to_choose]) is None


@pytest.mark.parametrize(("per_second", "met"), [(40_000, True), (39_999, False)])
def test_rate_aim_is_that_of_the_best_directory(per_second: float, met: bool) -> None:
    findings = Findings()
    runs = [Routed(n, [Rate(rate, {})], [Rate(80_000, {})]) for n, rate in ((1, per_second), (2, 10))]
    tell_rates(findings, runs)
    assert [aim.met for aim in findings.aims] == [met]
    assert [row[3] for row in findings.tables[0].rows] == [per_second / 80_000, 1.0, 10 / 80_000, 1.0]


@pytest.mark.parametrize(("longest", "met"), [(0.99, True), (1.0, False)])
def test_change_aim_is_about_the_slowest(longest: float, met: bool) -> None:
    findings = Findings()
    tell_changes(findings, [0.1, longest, 0.1], 10)
    assert [aim.met for aim in findings.aims] == [met]


@pytest.mark.bench
@pytest.mark.e2e
def test_quick_run_of_routing_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "tests"), "TMPDIR": str(tmp_path / "tmp")}
    ended = subprocess.run(
        (sys.executable, "-m", "bench.routing", "--quick", "--out", str(tmp_path / "out")),
        cwd=ROOT, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    result = msgspec.json.decode((tmp_path / "out" / "routing.json").read_bytes(), type=Result)
    assert result.wrong == []
    decisions, rates, loading, changes = result.tables
    assert [row[0] for row in decisions.rows] == [100, 300]
    assert [row[1] for row in rates.rows] == ["one router process", "bare loop"] * 2
    assert [row[0] for row in loading.rows] == [50, 100]
    assert changes.rows[0][:3] == [100, 2, 2]
    assert (tmp_path / "out" / "routing-decision.svg").exists()
    assert os.listdir(tmp_path / "tmp") == []
