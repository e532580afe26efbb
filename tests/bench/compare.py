"""`python -m bench.compare BASE`: this state of the code beside an older one, in turns, as ratios.

BASE is checked out beside (a git worktree in a temporary directory); both run `agent-broker bench --fresh`
with their own code and this environment's interpreter and packages: base, ours, base, ours. What is reported
is relative, nothing is passed or failed by a time. The worktree and everything started is gone afterwards,
also after Ctrl-C. Exit codes: 0 compared, 1 a run failed or lost messages, 2 no such commit, 130 stopped.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rich.console import Console

from bench.comparison import Round, Unreadable, compare, differing_packages, read_round, table
from bench.kit.children import run_child, stop_on_sigterm
from bench.kit.program import WIDTH, environment
from bench.kit.report import markdown_table, shown

ROOT: Final = Path(__file__).resolve().parents[2]
LOCK: Final = "requirements.lock"
GIT_S: Final = 60.0
LOG_TAIL_BYTES: Final = 2_000
PACKAGES: Final = ("broker", "schema", "workers")
WHERE: Final = (
    f"import {', '.join(PACKAGES)}; print(*(p.__file__ for p in ({', '.join(PACKAGES)})), sep='\\n')"
)


class Failed(Exception):
    """The comparison cannot be made."""


class NoBase(Failed):
    """Git has no such commit here, or cannot check it out."""


def main(argv: Sequence[str] | None = None) -> int:
    """Compare; return the exit code."""
    args = _parser().parse_args(argv)
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    stop_on_sigterm()
    try:
        with tempfile.TemporaryDirectory(prefix="bench-compare-") as home:
            return _compare(args, Path(home), console)
    except Failed as failure:
        console.print(str(failure), style="red", markup=False)
        return 2 if isinstance(failure, NoBase) else 1
    except KeyboardInterrupt:
        console.print("stopped", style="yellow")
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="bench.compare", description="This state of the code beside BASE.")
    add = parser.add_argument
    add("base", help="the commit to compare with")
    add("--rounds", type=int, default=3, help="runs of each side (default 3; one says nothing)")
    add("--messages", type=int, default=20_000, help="messages of a flat-out run (default 20000)")
    add("--rate", type=int, default=1_000, help="messages/s of the paced run, 0: none (default 1000)")
    add("--seconds", type=int, default=5, help="length of the paced run (default 5)")
    add("--agents", type=int, default=1_000, help="agents to register (default 1000)")
    add("--endpoints", type=int, default=200, help="ports they share (default 200)")
    add("--out", type=Path, help="also write the table to this file, as Markdown")
    return parser


def _compare(args: argparse.Namespace, home: Path, console: Console) -> int:
    with worktree(args.base, home / "base") as root:
        sides = {"base": root, "ours": ROOT}
        _check_code(sides, home)
        _tell_locks(sides, console)
        rounds: dict[str, list[Round]] = {side: [] for side in sides}
        for number in range(1, args.rounds + 1):
            for side, code in sides.items():
                rounds[side].append(_bench(args, code, home / f"{side}-{number}"))
                _tell(console, f"{number}/{args.rounds} {side}", rounds[side][-1])
    result = table(compare(rounds["base"], rounds["ours"]), base=describe(args.base), rounds=args.rounds)
    console.print(shown(result))
    facts = "  ".join(f"{name} {value}" for name, value in environment().items())
    console.print(facts, style="dim", markup=False)
    if args.out is not None:
        args.out.write_text("\n\n".join([*markdown_table(result), facts]) + "\n")
    lost = sum(one.missing for several in rounds.values() for one in several)
    if lost:
        console.print(f"{lost} messages went missing: the rates are worth nothing", style="bold red")
    return 1 if lost else 0


@contextmanager
def worktree(commit: str, path: Path, *, repository: Path = ROOT) -> Iterator[Path]:
    """Check a commit out into a directory; remove it and git's note of it afterwards. Raises: NoBase."""
    found = _git(repository, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{commit}^{{commit}}")
    if found.returncode:
        reason = found.stderr.strip() or "there is no such commit"
        raise NoBase(f"cannot compare with {commit}: {reason}")
    try:
        added = _git(repository, "worktree", "add", "--detach", "--quiet", str(path), found.stdout.strip())
        if added.returncode:
            raise NoBase(f"cannot check {commit} out: {added.stderr.strip()}")
        yield path
    finally:
        if _git(repository, "worktree", "remove", "--force", str(path)).returncode:
            shutil.rmtree(path, ignore_errors=True)
            _git(repository, "worktree", "prune")


def describe(commit: str) -> str:
    """Return a commit's short name and subject."""
    return _git(ROOT, "log", "-1", "--format=%h (%s)", commit).stdout.strip() or commit


def _git(repository: Path, *words: str) -> "subprocess.CompletedProcess[str]":
    try:
        # A session of its own: a Ctrl-C must not leave a worktree half made or half removed.
        return subprocess.run(
            ("git", "-C", str(repository), *words),
            capture_output=True,
            text=True,
            timeout=GIT_S,
            check=False,
            start_new_session=True,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NoBase(f"git does not work here: {error}") from error


def _check_code(sides: dict[str, Path], home: Path) -> None:
    """Make sure that every side runs its own code, whatever is installed. Raises: Failed."""
    for side, root in sides.items():
        words = (sys.executable, "-c", WHERE)
        asked = subprocess.run(words, env=_env(root), cwd=home, capture_output=True, text=True, check=False)
        files = asked.stdout.split("\n")[:-1]
        if asked.returncode or not all(Path(file).is_relative_to(root) for file in files):
            raise Failed(f"{side} does not run its own code: {asked.stderr.strip() or ', '.join(files)}")


def _tell_locks(sides: dict[str, Path], console: Console) -> None:
    texts = [(root / LOCK).read_text() if (root / LOCK).exists() else "" for root in sides.values()]
    packages = differing_packages(*texts)
    if packages:
        console.print(
            f"NOTE: the base pins other versions of {', '.join(packages)}; both sides run with those "
            "installed here, so what a changed dependency does is not in the ratios.",
            style="yellow",
            markup=False,
        )


def _bench(args: argparse.Namespace, root: Path, where: Path) -> Round:
    """Run one side once, from a directory of its own. Raises: Failed."""
    where.mkdir()
    options = {name: getattr(args, name) for name in ("messages", "rate", "seconds", "agents", "endpoints")}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    code = run_child(
        (
            sys.executable,
            "-m",
            "broker.cli",
            "bench",
            "--fresh",
            "--repeat",
            "1",
            *words,
            "--json",
            "report.json",
        ),
        env=_env(root),
        cwd=where,
        log=where / "log",
    )
    try:
        # A run that lost messages exits with 1 and has its report written: it is told at the end.
        return read_round((where / "report.json").read_bytes())
    except FileNotFoundError:
        tail = (where / "log").read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")
        raise Failed(f"the benchmark of {where.name} failed with exit code {code}:\n{tail}") from None
    except Unreadable as error:
        raise Failed(f"the report of {where.name} cannot be compared: {error}") from error


def _env(root: Path) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(root)}


def _tell(console: Console, what: str, one: Round) -> None:
    latency = "" if one.p99_ms is None else f"   p50 {one.p50_ms:.2f} ms   p99 {one.p99_ms:.2f} ms"
    console.print(
        f"{what}: product {one.product_per_second:,.0f}/s   bare loop {one.ceiling_per_second:,.0f}/s   "
        f"ratio {one.ratio:.2f}   CPU {sum(one.cpu_us.values()):,.0f} us{latency}",
        style="dim",
    )


if __name__ == "__main__":
    sys.exit(main())
