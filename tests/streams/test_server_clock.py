"""The server's clock as a process keeps it: what happens to the host's own time of day is no matter."""

import time
from collections.abc import AsyncIterator

import pytest

from broker.streams.clock import ServerClock
from broker.streams.connection import Connection, open_connection

HOUR_S = 3600.0
NEAR_MS = 60_000


@pytest.fixture
async def asked(streams_url: str) -> AsyncIterator[Connection]:
    async with await open_connection(streams_url, name="test") as connection:
        yield connection


@pytest.mark.parametrize("step_s", [HOUR_S, -HOUR_S])
async def test_a_step_of_the_host_s_clock_moves_nothing(
    step_s: float, asked: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, true_time = ServerClock(), time.time
    await clock.measure(asked)
    before_ms = clock.now_ms()
    monkeypatch.setattr(time, "time", lambda: true_time() + step_s)
    assert before_ms <= clock.now_ms() < before_ms + NEAR_MS
    await clock.measure(asked)
    assert abs(clock.now_ms() - before_ms) < NEAR_MS


async def test_it_is_the_server_s_and_not_the_host_s(
    asked: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    true_time = time.time
    monkeypatch.setattr(time, "time", lambda: true_time() + HOUR_S)
    clock = ServerClock()
    assert clock.now_ms() > true_time() * 1000 + HOUR_S * 1000 - NEAR_MS
    await clock.measure(asked)
    assert abs(clock.now_ms() - true_time() * 1000) < NEAR_MS
