"""The whole demonstration, small, twice on one broker."""

import asyncio
import sys

import pytest

from broker.bench.subject import fresh


async def demonstrate(url: str, key: str) -> tuple[int | None, str]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "broker.cli", "demo", "--tasks", "40", "--url", url, "--key", key),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode, output.decode()


@pytest.mark.e2e
async def test_demonstration_loses_nothing_also_the_second_time(monkeypatch: pytest.MonkeyPatch) -> None:
    # The broker's retries are what takes time here; they may be quicker than for real agents.
    monkeypatch.setenv("RETRY_TIME_SCALE", "0.2")
    async with fresh() as subject:
        for names in ("price_watch ", "price_watch_2 "):
            code, output = await demonstrate(subject.api_url, subject.api_key)
            assert code == 0, output
            assert "40 asked, 40 processed, 40 answered" in output
            assert "nothing was lost" in output
            assert names in output
