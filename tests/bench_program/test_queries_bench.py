"""The benchmark of reading, tiny: every question was answered, a day was dropped, nothing went missing."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from bench.filling import fill
from bench.kit.report import Result
from bench.reading import cost_of, open_noting_pool

from broker.store import inbox, statistics, work_orders
from broker.store.inbox import InboxFilter
from broker.store.pool import open_pool
from broker.store.work_orders import OrderFilter, Party
from schema.ids import new_id
from schema.times import from_ms

ROOT = Path(__file__).resolve().parents[2]


async def test_filled_rows_are_what_inboxes_orders_and_statistics_show(database_url: str) -> None:
    pool, ids, now_ms = await open_pool(database_url, application_name="test"), [], 1_800_000_000_000
    ids = [new_id() for _ in range(10)]
    for rows in (6_000, 3_000):  # filling again replaces
        days = await fill(database_url, ids, rows=rows, today=from_ms(now_ms).date())
    assert len(days) == 30
    total = await inbox.total(pool, InboxFilter(agent_id=ids[0]), now_ms=now_ms)
    assert total.count == 300
    counted = await statistics.read(pool, ids[0], minutes_since_ms=now_ms)
    assert sum(one.messages for one in counted.totals if one.side == "received") == 300
    everything = await statistics.read(pool, statistics.DEPLOYMENT, minutes_since_ms=now_ms)
    assert sum(one.messages for one in everything.totals) == 3_000
    orders = await work_orders.list_page(pool, OrderFilter(agent_id=ids[0], role=Party.WORKER))
    assert orders.total == 2
    # No index was made a second time when the days were attached.
    per_table = await pool.fetch(
        "SELECT count(*) FROM pg_index WHERE indrelid IN (SELECT inhrelid FROM pg_inherits"
        " WHERE inhparent = 'agent_messages'::regclass) GROUP BY indrelid"
    )
    assert {row["count"] for row in per_table} == {10}
    await pool.aclose()


async def test_a_question_that_goes_through_a_whole_table_is_noticed(database_url: str) -> None:
    ids, noted = [new_id() for _ in range(10)], list[tuple[str, tuple[object, ...]]]()
    await fill(database_url, ids, rows=60_000, today=from_ms(1_800_000_000_000).date())
    pool = await open_noting_pool(database_url, noted)
    page = InboxFilter(agent_id=ids[0])
    good = await cost_of(pool, noted, lambda: inbox.page(pool, page, now_ms=1_800_000_000_000))
    assert not good.scanned
    assert 51 <= good.rows <= 51 + 2 * 30  # and the next row of each day
    bad = await cost_of(
        pool, noted, lambda: pool.fetch_value("SELECT count(*) FROM agent_messages WHERE hop = $1", 7)
    )
    assert bad.scanned == {"agent_messages"}
    assert bad.rows == 60_000
    assert bad.pages > good.pages > 0
    await pool.aclose()


@pytest.mark.bench
@pytest.mark.e2e
def test_quick_run_answers_every_question_and_drops_a_day(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "tests"), "TMPDIR": str(tmp_path / "tmp")}
    ended = subprocess.run(
        (sys.executable, "-m", "bench.queries", "--quick", "--out", str(tmp_path / "out")),
        cwd=ROOT, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    result = msgspec.json.decode((tmp_path / "out" / "queries.json").read_bytes(), type=Result)
    assert result.wrong == []
    asked, read, dropped = result.tables
    assert len(asked.rows) == len(result.curves[0].series) == len(read.rows) == 10
    assert all(isinstance(cell, float) and cell > 0 for row in asked.rows for cell in row[1:])
    assert all(isinstance(cell, int) and cell > 0 for row in read.rows for cell in row[1:2])
    assert [row[0] for row in dropped.rows] == ["before", "while a day is dropped", "after"]
    assert [row[1] for row in dropped.rows] == [200] * 3
    assert list((tmp_path / "tmp").iterdir()) == []
