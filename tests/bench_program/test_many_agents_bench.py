"""The benchmark of many agents, tiny: all it should say is there and nothing went missing. Rows written in
bulk are the rows of agents."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from bench import registering
from bench.kit.report import Result

from broker.store import agents as stored_agents
from broker.store import keys as stored_keys
from broker.store.pool import open_pool
from broker.streams.connection import open_connection
from broker.streams.keys import REGISTRY

ROOT = Path(__file__).resolve().parents[2]


async def test_agents_written_in_bulk_are_as_the_store_reads_them_and_are_announced(
    database_url: str, streams_url: str
) -> None:
    pool = await open_pool(database_url, application_name="test")
    async with await open_connection(streams_url, name="test") as connection:
        made = registering.make_agents(
            3,
            name="bulk",
            endpoint=lambda number: f"http://127.0.0.1:9/{number}",
            capabilities=lambda number: [f"skill-{number}"],
            now_ms=1_800_000_000_000,
        )
        texts = await registering.register_rows(pool, connection, made, pepper="p")
        assert sorted(await stored_agents.fetch(pool, [one.id for one in made]), key=lambda a: a.name) == made
        found = await stored_keys.find(pool, texts[0].split("_")[1])
        assert found is not None
        assert found.agent_id == made[0].id
        moved = await registering.move(pool, connection, made, lambda _: None)
        assert all(one.endpoint is None for one in moved)
        stored = await stored_agents.fetch(pool, [one.id for one in made])
        assert [one.endpoint for one in stored] == [None] * 3
        told = await connection.send("XRANGE", REGISTRY, "-", "+")
        assert [fields[1].decode() for _, fields in told] == [one.id for one in made] * 2
    await pool.aclose()


@pytest.mark.bench
@pytest.mark.e2e
def test_quick_run_says_what_agents_cost_and_loses_nothing(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "tests"), "TMPDIR": str(tmp_path / "tmp")}
    ended = subprocess.run(
        (sys.executable, "-m", "bench.many_agents", "--quick", "--out", str(tmp_path / "out")),
        cwd=ROOT, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    result = msgspec.json.decode((tmp_path / "out" / "many_agents.json").read_bytes(), type=Result)
    assert result.wrong == []
    idle, rates, beats, waiting = result.tables
    assert [row[0] for row in rates.rows] == [10, 60]
    assert all(row[1] and row[2] for row in rates.rows)
    assert [row[2] for row in beats.rows] == [None, None, *[0] * 7]  # refused
    assert len(idle.rows) == 7
    # A message waits for everybody, so Redis holds at least its bytes.
    assert all(row[2] and row[2] > 300 for row in waiting.rows)  # type: ignore[operator]  # numbers
    assert len(result.aims) == 9
    assert (tmp_path / "out" / "many_agents-rate.svg").exists()
    assert os.listdir(tmp_path / "tmp") == []
