"""Every mutant is caught, by the test that is named for it and for the reason that is named.

That the same tests pass without a mutant is what the rest of the suite shows.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mutants.plugin import mutant_of
from mutants.switches import MUTANTS

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "promises.md"


@pytest.fixture(scope="module")
def reports(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[dict[str, str]]]:
    """Run all the catchers in one process (one start, one set of servers); return how each ended."""
    path = tmp_path_factory.mktemp("mutants") / "report"
    path.touch()
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-n0", "-p", "mutants.plugin", "--timeout", "60", "-o", "addopts=",
         "-p", "no:cacheprovider", "-p", "no:schemathesis", "-p", "no:randomly",
         *(f"tests/{mutant.caught_by}" for mutant in MUTANTS.values())],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT / "tests"), "MUTANTS_REPORT": str(path)},
        capture_output=True,
        text=True,
        timeout=170,
    )  # fmt: skip
    # Anything but "some tests failed" is no verdict on any mutant: a test that is gone, a plugin that broke.
    assert run.returncode == pytest.ExitCode.TESTS_FAILED, run.stdout[-3_000:] + run.stderr[-3_000:]
    found: dict[str, list[dict[str, str]]] = {}
    for line in path.read_text().splitlines():
        report = json.loads(line)
        found.setdefault(mutant_of(report["test"]), []).append(report)
    return found


@pytest.mark.slow
def test_every_mutant_is_caught_by_the_test_named_for_it(reports: dict[str, list[dict[str, str]]]) -> None:
    escaped = []
    for name, mutant in MUTANTS.items():
        ends = reports.get(name, [])
        failed = [report for report in ends if report["when"] == "call" and report["outcome"] == "failed"]
        if not any(mutant.because in report["text"] for report in failed):
            told = [f"{end['when']} {end['outcome']}: {end['text'][-1_500:]}" for end in ends]
            escaped.append(f"{name} escaped {mutant.caught_by}:\n" + "\n".join(told))
    assert not escaped, "\n\n".join(escaped)


def test_no_two_mutants_have_one_catcher() -> None:
    """Each runs under one mutant; beside another it might fail for that one's sake."""
    assert len({mutant.caught_by for mutant in MUTANTS.values()}) == len(MUTANTS)


def test_the_page_of_promises_names_every_mutant_and_its_catcher() -> None:
    page = PAGE.read_text()
    for name, mutant in MUTANTS.items():
        file, test = mutant.caught_by.split("[")[0].split("::")
        assert f"| `{name}` | {mutant.fault} | `{file}`: `{test}` |" in page
