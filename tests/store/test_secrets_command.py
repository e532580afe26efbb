"""`agent-broker secrets rotate` as an operator types it."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

from broker.store import agents
from broker.store.keys import StoredKey
from broker.store.pool import open_pool
from broker.transport.signature import new_secret
from schema.agent import Agent
from schema.ids import new_id

OLD, NEW, OTHER = "o" * 32, "n" * 32, "x" * 32


def rotate(database_url: str, keys: str, home: Path) -> subprocess.CompletedProcess[str]:
    environment = {
        "DATABASE_URL": database_url,
        "REDIS_URL": "redis://127.0.0.1:1",
        "SECRETS_KEY": keys,
        "DATA_DIR": str(home),
        "PATH": os.environ["PATH"],
    }
    command = [sys.executable, "-m", "broker.cli", "secrets", "rotate"]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


async def registered(database_url: str, *keys: str) -> Agent:
    pool = await open_pool(database_url, size=1, application_name="test", secrets_keys=keys)
    agent = Agent(id=new_id(), name=new_id()[-12:], signing_secret=new_secret(), created_ms=1)
    key = StoredKey(id=agent.name, agent_id=agent.id, scopes=(), hash=b"h", prefix="abk_", created_ms=1)
    await agents.register(pool, agent, key)
    await pool.aclose()
    return agent


async def test_rotation_from_the_shell_says_what_it_did_and_whom_it_could_not(
    database_url: str, tmp_path: Path
) -> None:
    await registered(database_url)
    await registered(database_url, OLD)
    done = await asyncio.to_thread(rotate, database_url, f"{NEW},{OLD}", tmp_path)
    assert (done.returncode, done.stdout) == (0, "2 agents' secrets encrypted with the first key\n")
    lost = await registered(database_url, OTHER)
    failed = await asyncio.to_thread(rotate, database_url, NEW, tmp_path)
    assert failed.returncode == 1
    assert lost.id in failed.stderr
    for secret in (lost.signing_secret, OLD, NEW):
        assert secret not in failed.stdout + failed.stderr


async def test_rotation_without_a_key_or_with_a_short_one_is_refused(
    database_url: str, tmp_path: Path
) -> None:
    for keys, code, words in (
        ("", 1, "SECRETS_KEY is not set"),
        ("too-short-and-secret", 2, "fewer than 32"),
    ):
        ended = await asyncio.to_thread(rotate, database_url, keys, tmp_path)
        assert ended.returncode == code
        assert words in ended.stderr
        assert "too-short-and-secret" not in ended.stderr
