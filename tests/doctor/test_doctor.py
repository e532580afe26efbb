"""The doctor on real servers: what it finds, what it says, and who refuses to start."""

import argparse
import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis
from gateway_rig import settings_for
from whole_broker import WholeBroker

from broker.core.diagnosis import Finding, Severity
from broker.doctor.examination import examine
from broker.doctor.run import EXIT_FATAL, EXIT_WELL, main
from broker.doctor.settings import judge_settings
from broker.gateway.serve import running
from broker.settings import Settings
from broker.store.pool import open_pool
from schema.errors import Unsafe

KEY = "a-long-and-random-operator-key"


def settings(streams_url: str, database_url: str, **more: object) -> Settings:
    return settings_for(streams_url, database_url, **({"agent_api_key": KEY} | more))


@contextmanager
def configured(url: str, **values: str) -> Iterator[None]:
    """Set a real server wrong for as long as the context lasts."""
    client = redis.Redis.from_url(url)
    before = {name: client.config_get(name)[name] for name in values}
    try:
        for name, value in values.items():
            client.config_set(name, value)
        yield
    finally:
        for name, value in before.items():
            client.config_set(name, value)
        client.close()
        client.connection_pool.disconnect()


def codes(findings: list[Finding]) -> set[str]:
    return {finding.code for finding in findings if not finding.code.startswith(("host.", "redis.memory"))}


async def test_servers_as_we_set_them_up_are_well(any_streams_url: str, any_database_url: str) -> None:
    assert codes(await examine(settings(any_streams_url, any_database_url))) == set()


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"maxmemory-policy": "allkeys-lru"}, "redis.evicts"),
        ({"maxmemory": "0"}, "redis.maxmemory_unset"),
        ({"appendfsync": "everysec"}, "redis.weak_appendfsync"),
        ({"appendonly": "no"}, "redis.no_append_only_file"),
    ],
)
async def test_a_redis_set_wrong_is_found_and_no_gateway_starts_on_it(
    any_streams_url: str, database_url: str, values: dict[str, str], code: str
) -> None:
    given = settings(any_streams_url, database_url)
    with configured(any_streams_url, **values):
        assert codes(await examine(given)) == {code}
        with pytest.raises(ExceptionGroup) as refused:
            async with running(given) as gateway:
                await gateway.stop.wait()
    assert refused.group_contains(Unsafe, match=code)


ROLES = ("worker", "recorder", "keeper", "gateway")


def started(role: str, given: Settings) -> subprocess.CompletedProcess[str]:
    """Start a role as a process, as an operator would, and return how it ended."""
    environment = {
        "REDIS_URL": given.redis_url,
        "DATABASE_URL": given.database_url,
        "AGENT_API_KEY": KEY,
        "METRICS_PORT": "0",
        "PORT": "0",
        "PATH": os.environ["PATH"],
    }
    command = [sys.executable, "-m", "broker.cli", role]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("role", ROLES)
def test_no_role_starts_on_a_redis_that_evicts(streams_url: str, postgres_url: str, role: str) -> None:
    with configured(streams_url, **{"maxmemory-policy": "allkeys-lru"}):
        ended = started(role, settings(streams_url, postgres_url))
    assert ended.returncode == 1
    assert "redis.evicts" in ended.stdout + ended.stderr


@pytest.mark.parametrize("role", ROLES)
async def test_no_role_starts_on_a_postgres_that_forgets_what_it_committed(
    streams_url: str, database_url: str, role: str
) -> None:
    given = settings(streams_url, await forgetful(database_url))
    assert codes(await examine(given)) == {"postgres.synchronous_commit_off"}
    ended = await asyncio.to_thread(started, role, given)
    assert ended.returncode == 1
    assert "postgres.synchronous_commit_off" in ended.stdout + ended.stderr


async def forgetful(database_url: str) -> str:
    """Make the database's sessions forgetful; it is dropped after the test."""
    pool = await open_pool(database_url, size=1, application_name="test")
    name = await pool.fetch_value("SELECT current_database()")
    await pool.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    await pool.aclose()
    return database_url


async def test_a_store_that_is_away_is_a_finding_and_the_other_one_is_examined() -> None:
    found = await examine(settings("redis://127.0.0.1:1", "postgresql://nobody@127.0.0.1:1/none"))
    assert {f.code for f in found if f.severity is Severity.FATAL} == {
        "redis.unreachable",
        "postgres.unreachable",
    }


@pytest.mark.parametrize(
    ("more", "code"),
    [
        ({"require_authentication": False}, "settings.no_authentication"),
        ({"agent_api_key": "short"}, "settings.short_key"),
        ({"key_pepper": ""}, "settings.no_pepper"),
        ({"host": "0.0.0.0"}, "settings.plain_http"),
        ({"durability": "everysec"}, "settings.buffered"),
        ({"endpoint_allow_cidrs": "0.0.0.0/0"}, "settings.wide_network"),
        ({"endpoint_allow_cidrs": "10.0.0.0/7"}, "settings.wide_network"),
    ],
)
def test_each_unwise_setting_is_found(more: dict[str, object], code: str) -> None:
    assert codes(judge_settings(settings("redis://x", "postgresql://x", **more))) == {code}


def test_it_reports_to_programs_as_json_and_exits_with_1_on_anything_fatal(
    streams_url: str, postgres_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = settings(streams_url, postgres_url)
    with configured(streams_url, **{"maxmemory-policy": "allkeys-lru"}):
        assert main(argparse.Namespace(json=True), given) == EXIT_FATAL
    found = {finding["code"]: finding for finding in json.loads(capsys.readouterr().out)}
    assert found["redis.evicts"]["severity"] == "fatal"
    assert "noeviction" in found["redis.evicts"]["remedy"]


def test_it_tells_people_what_is_wrong_and_how_to_mend_it(
    streams_url: str, empty_database_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = settings(streams_url, empty_database_url, key_pepper="")
    assert main(argparse.Namespace(json=False), given) == EXIT_WELL
    said = capsys.readouterr().out
    assert "settings.no_pepper: KEY_PEPPER is not set" in said
    assert "postgres.migrations_pending" in said
    assert "nothing fatal" in said


def test_beside_an_up_it_examines_that_one_with_the_secrets_it_keeps(calm_broker: WholeBroker) -> None:
    environment = {"DATA_DIR": str(calm_broker.data_dir), "PATH": os.environ["PATH"]}
    command = [sys.executable, "-m", "broker.cli", "doctor", "--json"]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended
    found = {finding["code"] for finding in json.loads(ended.stdout)}
    assert {
        code for code in found if not code.startswith(("host.", "redis.memory", "postgres.quarantine"))
    } == set()
