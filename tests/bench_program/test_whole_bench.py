"""The whole benchmark, small: a broker of its own is started, measured and ended."""

import asyncio
import os
import sys
from pathlib import Path

import msgspec
import pytest

from broker.bench.report import Report

SMALL = ("--messages", "400", "--repeat", "1", "--rate", "200", "--rate", "300", "--seconds", "1")
FEW = ("--agents", "20", "--endpoints", "5")


@pytest.mark.e2e
async def test_benchmark_of_a_fresh_broker_accounts_for_every_message(tmp_path: Path) -> None:
    written = tmp_path / "report.json"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "broker.cli", "bench", "--fresh", *SMALL, *FEW, "--json", str(written)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env={"PATH": "/usr/bin:/bin", "TMPDIR": str(tmp_path)},
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
    report = msgspec.json.decode(written.read_bytes(), type=Report)
    assert [run.rate for run in report.paced] == [200, 300]
    for run in (*report.flat_out, *report.ceiling, *report.paced):
        assert (run.missing, run.signatures_wrong) == (0, 0)
        assert run.per_second > 0
    assert [run.latencies.count >= run.rate for run in report.paced] == [True, True]
    assert report.flat_out[0].signatures_checked > 0
    assert report.ratio > 0
    assert os.listdir(tmp_path) == [written.name]  # the broker's directory is gone
