"""The doctor on real servers: what it finds, what it says, and who refuses to start."""

import argparse
import asyncio
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import redis
from gateway_rig import settings_for
from whole_broker import WholeBroker

from broker.core.diagnosis import Finding, Severity
from broker.doctor.examination import examine
from broker.doctor.run import EXIT_FATAL, EXIT_WELL, main
from broker.doctor.settings import judge_settings
from broker.settings import STORES, Settings
from broker.store import agents
from broker.store.keys import StoredKey
from broker.store.pool import open_pool
from broker.transport.signature import new_secret
from schema.agent import Agent
from schema.ids import new_id

ROOT = Path(__file__).parents[2]
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
    """Leave out what is this machine's, and what other tests leave behind."""
    return {finding.code for finding in findings if not finding.code.startswith(("host.", "redis.memory"))}


async def test_servers_as_we_set_them_up_are_well(any_streams_url: str, any_database_url: str) -> None:
    assert codes(await examine(settings(any_streams_url, any_database_url))) == set()


ROLES = ("worker", "recorder", "keeper", "gateway", "up")


def started(role: str, given: Settings, home: Path, **more: str) -> subprocess.CompletedProcess[str]:
    """Start a role as a process, as an operator would, and return how it ended."""
    environment = {
        "REDIS_URL": given.redis_url,
        "DATABASE_URL": given.database_url,
        "AGENT_API_KEY": KEY,
        "METRICS_PORT": "0",
        "PORT": "0",
        "DATA_DIR": str(home),
        "PATH": os.environ["PATH"],
    } | more
    command = [sys.executable, "-m", "broker.cli", role]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("role", ROLES)
def test_no_role_starts_on_a_redis_that_cannot_keep_the_promises_and_it_says_all_that_is_wrong(
    streams_url: str, postgres_url: str, role: str, tmp_path: Path
) -> None:
    wrong = {"maxmemory-policy": "allkeys-lru", "maxmemory": "0", "appendfsync": "everysec"}
    with configured(streams_url, **wrong):
        ended = started(role, settings(streams_url, postgres_url), tmp_path)
    assert ended.returncode == 1
    said = ended.stdout + ended.stderr
    for code in ("redis.evicts", "redis.maxmemory_unset", "redis.weak_appendfsync"):
        assert code in said


@pytest.mark.parametrize("role", ROLES)
async def test_no_role_starts_on_a_postgres_that_forgets_what_it_committed(
    streams_url: str, database_url: str, role: str, tmp_path: Path
) -> None:
    given = settings(streams_url, await forgetful(database_url))
    assert codes(await examine(given)) == {"postgres.synchronous_commit_off"}
    ended = await asyncio.to_thread(started, role, given, tmp_path)
    assert ended.returncode == 1
    assert "postgres.synchronous_commit_off" in ended.stdout + ended.stderr


@pytest.mark.parametrize("role", ["gateway", "up"])
def test_nobody_listens_to_other_machines_with_a_key_out_of_instructions(
    streams_url: str, postgres_url: str, role: str, tmp_path: Path
) -> None:
    given = settings(streams_url, postgres_url)
    environment = {"HOST": "0.0.0.0", "AGENT_API_KEY": "changeme-changeme-changeme-changeme"}
    ended = started(role, given, tmp_path, **environment)
    assert ended.returncode == 1
    said = ended.stdout + ended.stderr
    assert "settings.example_key" in said
    assert environment["AGENT_API_KEY"] not in said


async def test_secrets_in_the_clear_and_those_no_key_opens_are_found(
    streams_url: str, database_url: str
) -> None:
    given = settings(streams_url, database_url)
    for name, stored in (("clear", new_secret()), ("lost", "sealed:1:00000000:AAAA")):
        pool = await open_pool(database_url, size=1, application_name="test")
        agent = Agent(id=new_id(), name=name, signing_secret=stored)
        key = StoredKey(id=name, agent_id=agent.id, scopes=(), hash=b"h", prefix="abk_", created_ms=1)
        await agents.register(pool, agent, key)
        await pool.aclose()
    found = {finding.code: finding for finding in await examine(given)}
    assert found["postgres.secrets_in_the_clear"].message.startswith("1 secrets")
    assert found["postgres.secrets_unreadable"].message.startswith("1 secrets")


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


HERE = ("redis://127.0.0.1", "postgresql://127.0.0.1/x")


@pytest.mark.parametrize(
    ("more", "code", "severity"),
    [
        ({"require_authentication": False}, "settings.no_authentication", "warning"),
        ({"agent_api_key": "kurz"}, "settings.short_key", "warning"),
        ({"agent_api_key": "ChangeMe-now-or-be-sorry-forever"}, "settings.example_key", "warning"),
        ({"agent_api_key": "abcabcabcabcabcabcabcabcabc"}, "settings.simple_key", "warning"),
        ({"key_pepper": ""}, "settings.no_pepper", "warning"),
        ({"secrets_key": ""}, "settings.no_secrets_key", "warning"),
        ({"host": "0.0.0.0"}, "settings.plain_http", "warning"),
        ({"durability": "everysec"}, "settings.buffered", "warning"),
        ({"endpoint_allow_cidrs": "0.0.0.0/0"}, "settings.wide_network", "warning"),
        ({"endpoint_allow_cidrs": "10.0.0.0/7"}, "settings.wide_network", "warning"),
        ({"redis_url": "redis://redis:6379/0"}, "settings.plain_redis", "warning"),
        ({"redis_url": "rediss://r:6379/0?ssl_cert_reqs=none"}, "settings.unverified_redis", "warning"),
        ({"database_url": "postgresql://u:p@db/x"}, "settings.plain_postgres", "warning"),
        ({"database_url": "postgresql://u:p@db/x?sslmode=prefer"}, "settings.plain_postgres", "warning"),
        ({"database_url": "postgresql://u@/x?host=db.example.org"}, "settings.plain_postgres", "warning"),
        ({"host": "0.0.0.0", "require_authentication": False}, "settings.no_authentication", "fatal"),
        ({"host": "::", "agent_api_key": "kurz"}, "settings.short_key", "fatal"),
        ({"host": "10.0.0.7", "agent_api_key": "password" * 4}, "settings.example_key", "fatal"),
        ({"host": "broker.lan", "agent_api_key": "ab" * 16}, "settings.simple_key", "fatal"),
    ],
)
def test_each_unwise_setting_is_found(more: dict[str, object], code: str, severity: str) -> None:
    redis_url, database_url = (str(more.pop(name, url)) for name, url in zip(STORES, HERE, strict=True))
    found = judge_settings(settings(redis_url, database_url, **more))
    assert {f.severity.value for f in found if f.code == code} == {severity}
    assert codes(found) - {"settings.plain_http"} == {code} - {"settings.plain_http"}
    assert all(finding.remedy for finding in found)
    assert str(more.get("agent_api_key", KEY)) not in str(found)


@pytest.mark.parametrize(
    ("redis_url", "database_url"),
    [
        HERE,
        ("unix:///run/redis.sock", "postgresql://u@/x?host=/run/postgresql"),
        ("rediss://redis:6379/0", "postgresql://u:p@db/x?sslmode=verify-full"),
        ("redis://[::1]:6379/0", "postgresql://localhost/x"),
    ],
)
def test_wise_settings_are_left_alone(redis_url: str, database_url: str) -> None:
    assert codes(judge_settings(settings(redis_url, database_url))) == set()


async def test_signatures_that_nobody_can_check_are_found_and_no_worker_starts(
    streams_url: str, database_url: str, tmp_path: Path
) -> None:
    given = settings(streams_url, database_url, require_signed_ingress=True)
    assert "settings.no_signing_secret" not in codes(judge_settings(given))
    given = given.model_copy(update={"secrets_key": ""})
    found = {finding.code: finding.severity for finding in judge_settings(given)}
    assert found["settings.no_signing_secret"] is Severity.FATAL
    ended = await asyncio.to_thread(started, "worker", given, tmp_path, REQUIRE_SIGNED_INGRESS="true")
    assert ended.returncode == 1
    assert "SECRETS_KEY" in ended.stdout + ended.stderr


def test_a_disk_that_is_nearly_full_is_found_where_up_keeps_its_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = settings(*HERE, data_dir=str(tmp_path))
    found = {
        free: "host.disk_nearly_full" in {f.code for f in judge_settings(given)}
        for free in (9, 10)
        if monkeypatch.setattr(shutil, "disk_usage", lambda _, free=free: Usage(100, 100 - free, free))
        is None
    }
    assert found == {9: True, 10: False}


class Usage(NamedTuple):
    """As `shutil.disk_usage` returns it."""

    total: int
    used: int
    free: int


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


def test_the_runbook_says_what_to_do_about_every_finding() -> None:
    sources = [*(ROOT / "broker/doctor").glob("*.py"), ROOT / "broker/core/diagnosis.py"]
    known = {
        code
        for path in sources
        for code in re.findall(r'"((?:redis|postgres|settings|host)\.\w+)"', path.read_text())
    }
    runbook = (ROOT / "docs/operating.md").read_text()
    assert len(known) > 40
    assert {code for code in known if f"`{code}`" not in runbook} == set()
