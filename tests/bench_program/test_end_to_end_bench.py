"""The end-to-end benchmark and the run of all benchmarks: the aims' arithmetic, a tiny run, the index."""

import io
import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from bench.__main__ import PROGRAMS, chosen, exists, forget, run_all
from bench.end_to_end import FULL, NAME, findings
from bench.kit.report import Result
from rich.console import Console

from broker.bench.figures import Latencies
from broker.bench.report import Leftovers, Report, Run

ROOT = Path(__file__).resolve().parents[2]


def run(
    per_second: float, *, rate: int = 0, p50_ms: float = 0.0, p99_ms: float = 0.0, missing: int = 0
) -> Run:
    return Run(
        messages=100,
        rate=rate,
        per_second=per_second,
        published_per_second=per_second,
        cpu_us={"worker": 90.0, "valkey": 10.0},
        missing=missing,
        latencies=Latencies(count=100, p50_ms=p50_ms, p99_ms=p99_ms),
    )


def report(product: list[Run], ceiling: list[Run], paced: list[Run]) -> Report:
    left = Leftovers(used_memory_growth=1000, messages=100, by_kind={"seen": 500})
    return Report(environment={}, flat_out=product, ceiling=ceiling, paced=paced, leftovers=left)


@pytest.mark.parametrize(
    ("product", "bare", "at_1000", "at_5000", "met"),
    [
        (10_000, 14_000, (2.0, 10.0), 25.0, [True] * 5),
        (9_999, 14_290, (2.01, 10.01), 25.01, [False] * 5),
        (12_000, 30_000, (1.0, 30.0), 3.0, [True, False, True, False, True]),
    ],
)
def test_aims_are_met_at_their_limit_and_not_beyond(
    product: float, bare: float, at_1000: tuple[float, float], at_5000: float, met: list[bool]
) -> None:
    paced = [
        run(1000, rate=1_000, p50_ms=at_1000[0], p99_ms=at_1000[1]),
        run(2000, rate=2_000, p50_ms=999, p99_ms=999),
        run(5000, rate=5_000, p50_ms=999, p99_ms=at_5000),
    ]
    found = findings(report([run(product)], [run(bare)], paced))
    assert [aim.met for aim in found.aims] == met
    assert found.wrong == []


def test_full_measurement_runs_every_rate_that_has_an_aim() -> None:
    paced = [run(rate, rate=rate) for rate in FULL.rates]
    assert len(findings(report([run(1)], [run(1)], paced)).aims) == 5


def test_lost_message_makes_the_findings_wrong_wherever_it_was_lost() -> None:
    fine, bad = run(100), run(100, missing=3)
    for several in ([[fine, bad], [fine], [fine]], [[fine], [bad], [fine]], [[fine], [fine], [bad]]):
        assert len(findings(report(*several)).wrong) == 1
    assert findings(report([fine], [fine], [fine])).wrong == []


def test_programs_are_chosen_by_name_or_beginning_in_their_order() -> None:
    assert chosen(["end_to_end"]) == chosen(["end", "end_to"]) == ["end_to_end"]
    assert chosen([]) == [name for name in PROGRAMS if exists(name)]


@pytest.mark.parametrize("word", ["nonsense", "kit", "", "q9"])
def test_unknown_or_unclear_name_is_refused(word: str) -> None:
    with pytest.raises(LookupError, match="name one of"):
        chosen([word])


@pytest.mark.parametrize(("name", "there"), [("end_to_end", True), ("kit", False), ("nothing", False)])
def test_only_what_can_be_run_is_a_program(name: str, there: bool) -> None:
    assert exists(name) is there


def test_old_results_of_a_program_are_removed_and_no_others(tmp_path: Path) -> None:
    for name in ("routing.json", "routing.md", "routing-cost.svg", "routing_more.md", "README.md"):
        (tmp_path / name).touch()
    forget("routing", tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["README.md", "routing_more.md"]


def bench(*words: str, out: Path, env: dict[str, str]) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        (sys.executable, "-m", "bench", *words, "--quick", "--out", str(out)),
        cwd=ROOT, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip


@pytest.mark.e2e
def test_quick_run_accounts_for_every_message_and_is_in_the_index(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "tests"), "TMPDIR": str(tmp_path / "tmp")}
    ended = bench("end", out=tmp_path / "out", env=env)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    result = msgspec.json.decode((tmp_path / "out" / f"{NAME}.json").read_bytes(), type=Result)
    assert result.wrong == []
    assert {table.title.split(",")[0] for table in result.tables} >= {"Flat out", "CPU"}
    rates, latencies = result.tables[:2]
    assert [row[-1] for row in rates.rows[:2]] == [0, 0]
    ways = ("product", "bare loop")
    assert [(row[0], row[1]) for row in latencies.rows] == [
        (rate, way) for rate in (100, 200) for way in ways
    ]
    assert all(row[2] and row[2] <= row[3] <= row[4] <= row[6] for row in latencies.rows)  # type: ignore[operator]  # numbers
    assert f"[{result.title}]({NAME}.md)" in (tmp_path / "out" / "README.md").read_text()
    assert sorted(os.listdir(tmp_path / "out")) == [
        "README.md", f"{NAME}-latency.svg", f"{NAME}.json", f"{NAME}.md",
    ]  # fmt: skip
    assert os.listdir(tmp_path / "tmp") == []


def test_program_that_fails_is_told_and_does_not_keep_its_old_figures(tmp_path: Path) -> None:
    for name in ("not_there", "nor_this"):
        (tmp_path / f"{name}.json").write_text("old figures")
    console = Console(file=io.StringIO())
    assert run_all(["not_there", "nor_this"], quick=True, out=tmp_path, console=console) == [
        "not_there",
        "nor_this",
    ]
    page = (tmp_path / "README.md").read_text()
    assert "**not_there failed with exit code 1.**" in page
    assert "**nor_this failed with exit code 1.**" in page
    assert os.listdir(tmp_path) == ["README.md"]
