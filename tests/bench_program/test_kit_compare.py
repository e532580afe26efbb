"""The comparison of two states of the code: reading old and new reports, ratios, verdicts, git, ending."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
from bench.compare import LOCK, NoBase, worktree
from bench.comparison import Round, Unreadable, Verdict, compare, differing_packages, read_round, table
from bench.kit.report import markdown_table
from whole_broker import until

from broker.bench.figures import Latencies
from broker.bench.report import Leftovers, Report, Run

ROOT = Path(__file__).resolve().parents[2]


def run(per_second: float, *, cpu: float = 50.0, missing: int = 0, p99_ms: float = 0.0) -> Run:
    return Run(
        messages=10,
        per_second=per_second,
        published_per_second=1.0,
        cpu_us={"worker": cpu, "valkey": 20.0},
        missing=missing,
        duplicates=1,
        latencies=Latencies(count=1, p50_ms=p99_ms / 2, p99_ms=p99_ms),
    )


def report(*, paced: list[Run]) -> bytes:
    return msgspec.json.encode(
        Report(
            environment={},
            flat_out=[run(100.0), run(300.0, missing=2), run(200.0, cpu=60.0)],
            ceiling=[run(800.0)],
            paced=paced,
            leftovers=Leftovers(used_memory_growth=0, messages=0, by_kind={}),
        )
    )


def changed(**changes: object) -> bytes:
    fields = msgspec.json.decode(report(paced=[run(10.0, p99_ms=8.0)]))
    return msgspec.json.encode({**fields, **changes})


def test_report_of_today_is_read() -> None:
    found = read_round(report(paced=[run(10.0, p99_ms=8.0), run(10.0, p99_ms=99.0)]))
    assert found == Round(
        product_per_second=200.0,
        ceiling_per_second=800.0,
        cpu_us={"worker": 50.0, "valkey": 20.0},
        messages=10,
        p50_ms=4.0,
        p99_ms=8.0,
        missing=2,
        duplicates=5,
    )
    assert found.ratio == 0.25


def test_report_with_one_paced_run_or_none_as_older_ones_have_it_is_read() -> None:
    (today,) = msgspec.json.decode(report(paced=[run(10.0, p99_ms=8.0)]))["paced"]
    assert read_round(changed(paced=today)) == read_round(report(paced=[run(10.0, p99_ms=8.0)]))
    assert read_round(changed(paced=None)).p99_ms is None
    assert read_round(changed(paced=[])).p99_ms is None


@pytest.mark.parametrize(
    "given",
    [
        b"",
        b"Traceback (most recent call last)",
        b"[]",
        b"{}",
        changed(flat_out=[]),
        changed(ceiling=None),
        changed(flat_out=[{"per_second": 1.0}]),
        changed(flat_out=[{"per_second": 1.0, "cpu_us": {}}]),
        changed(flat_out=[{"per_second": "fast", "cpu_us": {}}, {"per_second": 1, "cpu_us": {}}]),
    ],
)
def test_report_that_cannot_be_compared_is_refused(given: bytes) -> None:
    with pytest.raises(Unreadable):
        read_round(given)


def rounds(*rates: float, ceiling: float = 1000.0, cpu: float = 100.0) -> list[Round]:
    return [
        Round(product_per_second=rate, ceiling_per_second=ceiling, cpu_us={"worker": cpu}, messages=20_000)
        for rate in rates
    ]


def verdict(verdicts: list[Verdict], name: str) -> Verdict:
    return next(one for one in verdicts if one.name == name)


def test_ratio_is_of_medians_and_its_spread_of_neighbours() -> None:
    found = verdict(compare(rounds(100, 200, 110), rounds(220, 210, 330)), "product, messages/s")
    assert (found.base, found.ours) == ((100, 110, 200), (210, 220, 330))
    assert found.ratio == 2.0
    assert found.ratios == (1.05, 3.0)
    assert found.word == "better"


@pytest.mark.parametrize(
    ("base", "ours", "word"),
    [
        ((100, 110), (111, 120), "better"),
        ((111, 120), (100, 110), "WORSE"),
        ((100, 111), (110, 120), "inside the noise"),
        ((100, 110), (110, 120), "inside the noise"),
        ((90, 130), (100, 110), "inside the noise"),
        ((100,), (900,), "one round says nothing"),
    ],
)
def test_difference_counts_only_where_ranges_do_not_touch(
    base: tuple[float, ...], ours: tuple[float, ...], word: str
) -> None:
    assert verdict(compare(rounds(*base), rounds(*ours)), "product, messages/s").word == word


def test_less_cpu_is_better() -> None:
    found = compare(rounds(100, 100, cpu=50), rounds(100, 100, cpu=40))
    assert verdict(found, "CPU us a message: worker").word == "better"
    assert verdict(found, "CPU us a message, all").ratio == 0.8


@pytest.mark.parametrize(("cpu", "word"), [(10.5, "inside the noise"), (10.6, "WORSE"), (9.4, "better")])
def test_a_tick_of_cpu_more_or_less_is_no_difference(cpu: float, word: str) -> None:
    # 10 ms over 20,000 messages are half a microsecond each.
    found = compare(rounds(100, 100, cpu=10.0), rounds(100, 100, cpu=cpu))
    assert verdict(found, "CPU us a message: worker").word == word


def test_figure_that_a_side_lacks_is_left_out_but_a_new_part_counts_in_the_sum() -> None:
    base = [Round(1.0, 2.0, {"worker": 10.0}, 100, p50_ms=1.0, p99_ms=2.0)]
    ours = [Round(1.0, 2.0, {"worker": 10.0, "router": 5.0}, 100)]
    found = {one.name: one for one in compare(base, ours)}
    assert "p99 ms, paced" not in found
    assert "CPU us a message: router" not in found  # there is no ratio to nothing
    assert found["CPU us a message, all"].ratio == 1.5


def test_table_shows_both_sides_ratio_and_verdict() -> None:
    shown = table(compare(rounds(100, 110), rounds(200, 220)), base="abc (older)", rounds=2)
    lines = markdown_table(shown)
    assert "abc (older), 2 rounds" in lines[0]
    assert "| product, messages/s | 105 | 210 | 2.00 | 2.00 - 2.00 | better |" in lines[1]


LOCKS = """\
asyncpg==0.30.0 \\
    --hash=sha256:abc
{redis}colorama==0.4.6 ; sys_platform == 'win32' \\
    --hash=sha256:def
"""


def test_differing_packages_are_named_and_hashes_and_markers_do_not_count() -> None:
    old = LOCKS.format(redis="redis==7.4.0 \\\n")
    assert differing_packages(old, LOCKS.format(redis="redis==8.1.0 \\\n")) == ["redis"]
    assert differing_packages(old, LOCKS.format(redis="")) == ["redis"]
    assert differing_packages(old, old.replace("abc", "xyz").replace("win32", "cygwin")) == []
    assert len(differing_packages("", (ROOT / LOCK).read_text())) > 20


def git(repository: Path, *words: str) -> str:
    return subprocess.run(
        ("git", "-C", str(repository), "-c", "user.name=t", "-c", "user.email=t@localhost", *words),
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    path = tmp_path / "repository"
    path.mkdir()
    git(path, "init", "--quiet")
    (path / "file").write_text("old")
    git(path, "add", "file")
    git(path, "commit", "--quiet", "--message", "old")
    (path / "file").write_text("new")
    return path


def worktrees(repository: Path) -> int:
    return len(git(repository, "worktree", "list").splitlines())


def test_base_is_checked_out_beside_and_gone_afterwards(repository: Path, tmp_path: Path) -> None:
    with worktree("HEAD", tmp_path / "base", repository=repository) as root:
        assert (root / "file").read_text() == "old"
        (root / "made by running it").touch()
        assert worktrees(repository) == 2
    assert (repository / "file").read_text() == "new"
    assert not (tmp_path / "base").exists()
    assert worktrees(repository) == 1


def test_worktree_is_gone_also_when_the_comparison_breaks(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), worktree("HEAD", tmp_path / "base", repository=repository):
        raise KeyboardInterrupt
    assert not (tmp_path / "base").exists()
    assert worktrees(repository) == 1


@pytest.mark.parametrize("commit", ["nonsense", "-h", "--all", "", "HEAD~999"])
def test_commit_that_is_not_there_is_named(repository: Path, tmp_path: Path, commit: str) -> None:
    with (
        pytest.raises(NoBase, match=f"cannot compare with {commit}: there is no such commit"),
        worktree(commit, tmp_path / "base", repository=repository),
    ):
        pass


def test_directory_without_git_is_told_in_gits_words(tmp_path: Path) -> None:
    with (
        pytest.raises(NoBase, match="not a git repository"),
        worktree("HEAD", tmp_path / "base", repository=tmp_path),
    ):
        pass


def test_directory_that_is_taken_is_told_in_gits_words(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base" / "precious").touch()
    with (
        pytest.raises(NoBase, match=r"cannot check HEAD out: .*already exists"),
        worktree("HEAD", tmp_path / "base", repository=repository),
    ):
        pass


def test_missing_git_is_told(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with (
        pytest.raises(NoBase, match="git does not work here"),
        worktree("HEAD", tmp_path / "base", repository=repository),
    ):
        pass


def compare_command(*words: str, tmp: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        (sys.executable, "-m", "bench.compare", *words),
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT / "tests"), "TMPDIR": str(tmp)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_unknown_commit_ends_the_command_with_2(tmp_path: Path) -> None:
    command = compare_command("nonsense", tmp=tmp_path)
    output, _ = command.communicate()
    assert command.returncode == 2
    assert output == "cannot compare with nonsense: there is no such commit\n"
    assert os.listdir(tmp_path) == []


SMALL = ("--messages", "100", "--rate", "50", "--seconds", "1", "--agents", "10", "--endpoints", "2")


@pytest.mark.bench
@pytest.mark.e2e
@pytest.mark.slow
@pytest.mark.timeout(400)
def test_two_states_are_compared_and_nothing_is_left(tmp_path: Path) -> None:
    out = tmp_path / "table.md"
    (tmp_path / "tmp").mkdir()
    command = compare_command("HEAD", "--rounds", "1", *SMALL, "--out", str(out), tmp=tmp_path / "tmp")
    output, _ = command.communicate()
    assert command.returncode == 0, output
    assert "| product / bare loop |" in out.read_text()
    assert "| p99 ms, paced |" in out.read_text()
    assert os.listdir(tmp_path / "tmp") == []
    assert str(tmp_path) not in git(ROOT, "worktree", "list")


@pytest.mark.bench
@pytest.mark.e2e
def test_stopped_comparison_leaves_nothing(tmp_path: Path) -> None:
    command = compare_command("HEAD", *SMALL, tmp=tmp_path)
    # The first run has begun when its broker has made its directory.
    until(lambda: list(tmp_path.glob("agent-broker-bench-*/data")), what="a broker was started")
    command.send_signal(signal.SIGINT)
    output, _ = command.communicate()
    assert command.returncode == 130, output
    assert os.listdir(tmp_path) == []
    assert str(tmp_path) not in git(ROOT, "worktree", "list")
