"""The supervisor, with real processes: restarts, order, kills, and what an earlier run left behind.

The stores are the session's where a test is not about them, so that each `up` starts fast.
"""

import asyncio
import os
import signal
import stat
from pathlib import Path

import asyncpg
import pytest
import redis
from running_up import RunningUp, is_alive, running_up, until

from broker.servers.running import read_running
from broker.telemetry.gathering import scrape

ALL = ("gateway:gateway", "obey:worker-1,obey:worker-2", "obey:recorder", "obey:keeper")


@pytest.fixture
def stores(streams_url: str, database_url: str) -> dict[str, str]:
    return {"REDIS_URL": streams_url, "DATABASE_URL": database_url}


def test_stops_in_order_on_ctrl_c(tmp_path: Path, stores: dict[str, str]) -> None:
    with running_up(tmp_path, *ALL, **stores) as up:
        up.wait_ready()
        names = ("worker-1", "worker-2", "recorder", "keeper")
        until(lambda: all(up.starts(name) for name in names), what="all children")
        up.signal(signal.SIGINT)
        assert up.process.wait(60) == 0
    ends = up.ends()
    assert ends[0] == "gateway"
    assert sorted(ends[1:3]) == ["worker-1", "worker-2"]
    assert ends[3:] == ["recorder", "keeper"]


def test_what_dies_is_started_again(tmp_path: Path, stores: dict[str, str]) -> None:
    with running_up(tmp_path, *ALL, **stores) as up:
        up.wait_ready()
        until(lambda: up.starts("worker-1"), what="the worker")
        (first,) = up.starts("worker-1")
        os.kill(first, signal.SIGKILL)
        until(lambda: len(up.starts("worker-1")) == 2, what="a second worker-1")
        assert up.stop() == 0
    assert ("child.ended", "worker-1", "killed by SIGKILL") in [
        (event["event"], event.get("child"), event.get("how")) for event in up.events()
    ]


def test_restarts_back_off(tmp_path: Path, stores: dict[str, str]) -> None:
    with running_up(tmp_path, "gateway:gateway", "die:crasher", **stores) as up:
        until(lambda: len(up.starts("crasher")) == 4, what="four starts")
        assert up.stop() == 0
    delays = [event["restart_s"] for event in up.events() if event["event"] == "child.ended"]
    assert delays[:3] == [0.2, 0.4, 0.8]


def test_a_wrong_configuration_ends_everything(tmp_path: Path, stores: dict[str, str]) -> None:
    with running_up(tmp_path, "gateway:gateway", "obey:worker-1", "misconfigured:recorder", **stores) as up:
        assert up.process.wait(60) == 2
    assert "recorder cannot work with this configuration" in up.output
    assert not any(is_alive(pid) for pid in up.starts("worker-1"))


def test_a_second_ctrl_c_does_not_wait(tmp_path: Path, stores: dict[str, str]) -> None:
    with running_up(tmp_path, "gateway:gateway", "refuse:worker-1", **stores) as up:
        up.wait_ready()
        until(lambda: up.starts("worker-1"), what="the worker")
        up.signal(signal.SIGINT)
        up.signal(signal.SIGINT)
        until(lambda: "gateway" in up.ends(), what="the first signal")
        assert "child.killed" not in up.output
        until(lambda: up.process.poll() is not None or up.signal(signal.SIGINT), what="the second signal")
        assert up.process.returncode == 0
    assert not any(is_alive(pid) for pid in up.starts("worker-1"))


def test_a_child_that_does_not_end_is_killed(tmp_path: Path, stores: dict[str, str]) -> None:
    with running_up(tmp_path, "gateway:gateway", "refuse:worker-1", DRAIN_TIMEOUT_MS="0", **stores) as up:
        up.wait_ready()
        until(lambda: up.starts("worker-1"), what="the worker")
        assert up.stop() == 0
    assert "child.killed" in up.output
    assert not any(is_alive(pid) for pid in up.starts("worker-1"))


def test_a_second_up_says_so_and_ends(tmp_path: Path, stores: dict[str, str]) -> None:
    with running_up(tmp_path, *ALL, **stores) as up:
        up.wait_ready()
        second = RunningUp(tmp_path, *ALL, **stores)
        assert second.process.wait(60) == 3
        assert f"process {up.process.pid}) is already running" in second.output
        assert up.process.poll() is None


def test_a_taken_port_is_said_before_anything_starts(tmp_path: Path, stores: dict[str, str]) -> None:
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        with running_up(tmp_path, *ALL, **{**stores, "PORT": port}) as up:
            assert up.process.wait(60) == 1
    assert f"cannot listen on 127.0.0.1 port {port}" in up.output
    assert up.starts("gateway") == []


@pytest.mark.parametrize("worker", ["obey:worker-1", "refuse:worker-1"])
def test_children_end_when_the_supervisor_was_killed(
    worker: str, tmp_path: Path, stores: dict[str, str]
) -> None:
    with running_up(tmp_path, "gateway:gateway", worker, DRAIN_TIMEOUT_MS="1000", **stores) as up:
        up.wait_ready()
        until(lambda: up.starts("worker-1"), what="the worker")
        up.signal(signal.SIGKILL)
        up.process.wait(60)
        with running_up(
            tmp_path, "gateway:gateway", "obey:keeper", DRAIN_TIMEOUT_MS="1000", **stores
        ) as next_up:
            next_up.wait_ready()
            assert not any(is_alive(pid) for pid in up.starts("worker-1"))
            assert next_up.stop() == 0


def test_keys_are_kept_and_private(tmp_path: Path, stores: dict[str, str]) -> None:
    with running_up(tmp_path, "gateway:gateway", **stores) as up:
        up.wait_ready()
        running = read_running(up.data_dir)
        assert running is not None
        # A log is no place for a key; only a terminal is shown it.
        assert running.api_key not in up.output
        assert f"operator key in {up.data_dir / 'operator-key'}" in up.output
        for name in ("operator-key", "key-pepper", "secrets-key", "running.json"):
            assert stat.S_IMODE((up.data_dir / name).stat().st_mode) == 0o600
        up.stop()
        assert read_running(up.data_dir) is None
    with running_up(tmp_path, "gateway:gateway", **stores) as again:
        again.wait_ready()
        kept = read_running(again.data_dir)
        assert kept is not None
        assert kept.api_key == running.api_key


def test_a_key_from_the_environment_is_not_printed(tmp_path: Path, stores: dict[str, str]) -> None:
    with running_up(tmp_path, "gateway:gateway", AGENT_API_KEY="hunter2", **stores) as up:
        up.wait_ready()
        assert "hunter2" not in up.output
        assert not (up.data_dir / "operator-key").exists()


async def test_one_port_shows_the_metrics_of_all(tmp_path: Path, stores: dict[str, str]) -> None:
    with running_up(tmp_path, "gateway:gateway", "die:crasher", **stores) as up:
        await asyncio.to_thread(up.wait_ready)
        await asyncio.to_thread(until, lambda: len(up.starts("crasher")) > 1, what="a restart")
        running = read_running(up.data_dir)
        assert running is not None
        page = await scrape("127.0.0.1", int(running.metrics_url.rsplit(":", 1)[1].split("/")[0]))
        await asyncio.to_thread(up.stop)
    assert page is not None
    assert b'agent_broker_process_restarts_total{child="crasher",process="supervisor"}' in page


@pytest.mark.slow
async def test_own_stores_are_started_watched_and_kept_over_a_kill(tmp_path: Path) -> None:
    with running_up(tmp_path, "gateway:gateway") as up:
        await asyncio.to_thread(up.wait_ready)
        running = read_running(up.data_dir)
        assert running is not None
        await _remember(running.redis_url, running.database_url)
        for name, pid in running.server_pids.items():
            os.kill(pid, signal.SIGKILL)
            restarted = ("server.ended", name)
            await asyncio.to_thread(
                until,
                lambda wanted=restarted: wanted in [(e["event"], e.get("server")) for e in up.events()],
                what=f"the end of {name} noticed",
            )
        await asyncio.to_thread(until, lambda: _answers(running.redis_url), what="Valkey again")
        up.signal(signal.SIGKILL)
        up.process.wait(60)
    with running_up(tmp_path, "gateway:gateway") as again:
        await asyncio.to_thread(again.wait_ready)
        running = read_running(again.data_dir)
        assert running is not None
        await _check_remembered(running.redis_url, running.database_url)
        assert await asyncio.to_thread(again.stop) == 0
    assert not any(is_alive(pid) for pid in running.server_pids.values())


async def _remember(redis_url: str, database_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    client.set("remembered", "yes")
    client.close()
    connection = await asyncpg.connect(database_url)
    await connection.execute("CREATE TABLE remembered AS SELECT 'yes' AS answer")
    await connection.close()


async def _check_remembered(redis_url: str, database_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    assert client.get("remembered") == b"yes"
    client.close()
    connection = await asyncpg.connect(database_url)
    assert await connection.fetchval("SELECT answer FROM remembered") == "yes"
    await connection.close()


def _answers(redis_url: str) -> bool:
    client = redis.Redis.from_url(redis_url)
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False
    finally:
        client.close()
