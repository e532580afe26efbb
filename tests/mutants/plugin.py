"""A pytest plugin that runs named tests with a mutant each: `pytest -p mutants.plugin <test> ...`.

Which mutant a test runs with is what `MUTANTS` says of it; how each test ended goes to the file that the
environment variable MUTANTS_REPORT names, a JSON object a line.
"""

import asyncio
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mutants.switches import MUTANTS, applied

MUTANT_OF = {mutant.caught_by: name for name, mutant in MUTANTS.items()}
PATIENCE_S = 8.0
"""What these tests wait for takes a second where it comes at all; with a mutant it often never comes."""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    timeout = asyncio.timeout
    with pytest.MonkeyPatch.context() as patch, applied(mutant_of(item.nodeid)):
        patch.setattr(asyncio, "timeout", lambda s: timeout(None if s is None else min(s, PATIENCE_S)))
        return (yield)


def mutant_of(nodeid: str) -> str:
    """Return the mutant a test runs with: named for this case of it, or for all of them."""
    named = _named(nodeid)
    return MUTANT_OF.get(named) or MUTANT_OF[named.split("[")[0]]


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" or report.failed:
        line = {"test": _named(report.nodeid), "when": report.when, "outcome": report.outcome}
        with Path(os.environ["MUTANTS_REPORT"]).open("a") as file:
            file.write(json.dumps(line | {"text": report.longreprtext}) + "\n")


def _named(nodeid: str) -> str:
    return nodeid.removeprefix("tests/")
