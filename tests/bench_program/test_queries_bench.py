"""The benchmark of reading, tiny: every question was answered, a day was dropped, nothing went missing."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from bench.filling import fill
from bench.kit.report import Result

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
    asked, dropped = result.tables
    assert len(asked.rows) == len(result.curves[0].series) == 7
    assert all(isinstance(cell, float) and cell > 0 for row in asked.rows for cell in row[1:])
    assert [row[0] for row in dropped.rows] == ["before", "while a day is dropped", "after"]
    assert [row[1] for row in dropped.rows] == [200] * 3
    assert list((tmp_path / "tmp").iterdir()) == []
