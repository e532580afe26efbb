"""The benchmark of publishing over HTTP: its aims, and a tiny run of all of it."""

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from bench.http_load import HttpReport
from bench.http_publish import BATCHES, RECORDED, SINGLE, Case, _batch, _body, aims_of
from bench.kit.report import Result

ROOT = Path(__file__).resolve().parents[2]


def case(name: str, *, messages: int, seconds: float, p50_ms: int) -> Case:
    report = HttpReport(seconds=seconds, cpu_us=1.0, statuses={"202": 1}, latencies_us=[p50_ms * 1000])
    return Case(name, None, 1, messages, reports=[report])  # type: ignore[arg-type]  # nothing is sent


@pytest.mark.parametrize(
    ("single", "batches", "p50_ms", "met"),
    [
        (12_000, 100_000, 24, [True] * 3),
        (11_999, 99_999, 25, [False] * 3),
        (1, 100_000, 1, [False, True, True]),
    ],
)
def test_aims_of_publishing_are_met_at_their_limit_and_not_beyond(
    single: int, batches: int, p50_ms: int, met: list[bool]
) -> None:
    cases = [
        case(SINGLE, messages=single, seconds=1, p50_ms=1),
        case(BATCHES, messages=batches, seconds=1, p50_ms=1),
        case(RECORDED, messages=1, seconds=1, p50_ms=p50_ms),
    ]
    assert [aim.met for aim in aims_of({one.name: one for one in cases})] == met
    assert list(aims_of({})) == []


def test_no_two_messages_to_a_recipient_say_the_same() -> None:
    # The broker stops who says the same again and again; what it stops is not what is measured.
    sent = [_body("a", "single"), _body("a", "recorded"), _body("b", "single")]
    batched: list[msgspec.Raw] = msgspec.json.decode(_batch(["a", "b"], 1), type=list[msgspec.Raw])
    assert len(batched) == 100
    assert len({*sent, *(bytes(one) for one in batched)}) == 103


@pytest.mark.e2e
def test_quick_run_of_publishing_finds_every_accepted_message_recorded(tmp_path: Path) -> None:
    (tmp_path / "tmp").mkdir()
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT / "tests"), "TMPDIR": str(tmp_path / "tmp")}
    ended = subprocess.run(
        (sys.executable, "-m", "bench.http_publish", "--quick", "--out", str(tmp_path / "out")),
        cwd=ROOT, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    result = msgspec.json.decode((tmp_path / "out" / "http_publish.json").read_bytes(), type=Result)
    assert result.wrong == []
    (table,) = result.tables
    names = [row[0] for row in table.rows]
    assert names[:2] == ["ceiling, bare", "ceiling, coalesced"]
    assert {SINGLE, BATCHES, RECORDED} < set(names)
    assert all(row[1] and row[2] and row[2] <= row[3] for row in table.rows)  # type: ignore[operator]  # numbers
    assert os.listdir(tmp_path / "tmp") == []
