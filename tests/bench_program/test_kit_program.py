"""The frame of a benchmark as the process it is: arguments, exit codes, the report, being stopped."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from bench.kit.broker import CpuMeter
from bench.kit.children import run_child
from bench.kit.program import command, environment
from whole_broker import until

TESTS = Path(__file__).resolve().parents[1]
PROGRAM = """
import asyncio, sys
from pathlib import Path
from bench.kit.program import Findings, run
from schema.errors import Unavailable

async def main(args, console):
    if args.how == "broken":
        error = Unavailable("nothing there")
        error.add_note("what the log says")
        raise error
    if args.how == "endless":
        Path("started").touch()
        try:
            await asyncio.sleep(3600)
        finally:
            Path("ending").touch()
            while not Path("may end").exists():
                await asyncio.sleep(0.01)
            Path("ended").touch()
    return Findings(notes=[f"quick {args.quick}"], wrong=["a message was lost"] * (args.how == "wrong"))

run("sample", "A sample", main, lambda parser: parser.add_argument("--how", default=""))
"""


def env() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"}


@pytest.fixture
def program(tmp_path: Path) -> list[str]:
    (tmp_path / "program.py").write_text(PROGRAM)
    return [sys.executable, "program.py", "--out", "out"]


def run(program: Sequence[str], *arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        (*program, *arguments), cwd=cwd, env=env(), capture_output=True, text=True, check=False
    )


def stop_often(process: subprocess.Popen[Any], signum: signal.Signals, where: Path) -> None:
    """Stop a process, and again while it ends what it began; then let it end."""
    until((where / "started").exists, what="the program began")
    process.send_signal(signum)
    until((where / "ending").exists, what="the program is told")
    for _ in range(3):
        process.send_signal(signum)
    (where / "may end").touch()


def test_findings_are_written_with_how_they_came_about(program: list[str], tmp_path: Path) -> None:
    ended = run(program, "--quick", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    written = json.loads((tmp_path / "out" / "sample.json").read_bytes())
    assert written["command"] == "PYTHONPATH=tests .venv/bin/python -m bench.sample --quick"
    assert written["notes"] == ["quick True"]
    assert set(written["environment"]) >= {"commit", "cores", "load before", "python"}
    assert "quick True" in (tmp_path / "out" / "sample.md").read_text()


def test_wrong_findings_are_written_and_the_program_fails(program: list[str], tmp_path: Path) -> None:
    ended = run(program, "--how", "wrong", cwd=tmp_path)
    assert ended.returncode == 1
    assert "WRONG: a message was lost" in ended.stdout
    assert "**Wrong: a message was lost**" in (tmp_path / "out" / "sample.md").read_text()


def test_broken_program_says_why_and_writes_nothing(program: list[str], tmp_path: Path) -> None:
    ended = run(program, "--how", "broken", cwd=tmp_path)
    assert ended.returncode == 1
    assert ended.stdout == "Unavailable: nothing there\nwhat the log says\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_stopped_program_ends_what_it_began_however_often_it_is_told(
    program: list[str], tmp_path: Path, signum: signal.Signals
) -> None:
    started = subprocess.Popen(
        (*program, "--how", "endless"), cwd=tmp_path, env=env(), stdout=subprocess.PIPE, text=True
    )
    stop_often(started, signum, tmp_path)
    output, _ = started.communicate()
    assert started.returncode == 130
    assert output == "stopped\n"
    assert (tmp_path / "ended").exists()


DRIVER = """
import os, sys
from pathlib import Path
from bench.kit.children import run_child, stop_on_sigterm
stop_on_sigterm()
try:
    run_child(sys.argv[1:], env=os.environ, log=Path("log"))
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_child_has_ended_in_order_when_its_driver_was_stopped(
    program: list[str], tmp_path: Path, signum: signal.Signals
) -> None:
    argv = [sys.executable, "-c", DRIVER, *program, "--how", "endless"]
    driver = subprocess.Popen(argv, cwd=tmp_path, env=env(), stderr=subprocess.PIPE)
    stop_often(driver, signum, tmp_path)
    driver.communicate()
    assert driver.returncode == 130
    assert (tmp_path / "ended").exists()
    assert (tmp_path / "log").read_text() == "stopped\n"


def test_exit_code_of_a_child_is_its_own(tmp_path: Path) -> None:
    assert run_child([sys.executable, "-c", "raise SystemExit(7)"], env=os.environ, cwd=tmp_path) == 7


@pytest.mark.parametrize(
    ("arguments", "kept"),
    [
        ([], ""),
        (["--quick"], " --quick"),
        (["--out", "/somewhere/private", "--quick"], " --quick"),
        (["--agents", "5", "--out=/somewhere/private"], " --agents 5"),
    ],
)
def test_command_on_the_page_names_no_directory_of_this_machine(arguments: list[str], kept: str) -> None:
    assert command("routing", arguments) == f"PYTHONPATH=tests .venv/bin/python -m bench.routing{kept}"


def test_environment_names_no_directory_of_this_machine() -> None:
    assert not [value for value in environment().values() if str(TESTS.parent) in value or "/" in value]


def test_cpu_of_a_process_tree_is_counted_by_part_for_each_message() -> None:
    meter = CpuMeter([], {os.getpid(): "tests"})
    meter.start()
    until(lambda: meter.seconds()["tests"] > 0, what="a tick of CPU")
    seconds = meter.seconds()["tests"]
    assert meter.per(10)["tests"] >= seconds * 1e6 / 10


def test_root_that_joins_later_is_counted() -> None:
    roots: list[int] = []
    meter = CpuMeter(roots)
    meter.start()
    assert meter.seconds() == {}
    roots.append(os.getpid())
    assert meter.seconds()["supervisor"] > 0
