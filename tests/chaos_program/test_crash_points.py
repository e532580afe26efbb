"""Crash points: each names something in the product, ends the process where it says, and a renamed function
does not go unnoticed."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from chaos import crash_points
from chaos.crash_points import POINTS, CrashPoint, NoSuchPoint
from chaos.launch import EXIT_NO_SUCH_POINT
from chaos.notes import lines
from chaos.python import SEARCHED
from whole_broker import environment


def run(code: str) -> subprocess.CompletedProcess[str]:
    """Run Python in a process of its own: what is wrapped stays wrapped."""
    words = [sys.executable, "-P", "-c", code]
    settings = environment() | {"PYTHONPATH": SEARCHED}
    return subprocess.run(words, env=settings, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("name", POINTS)
def test_every_point_names_something_that_can_be_wrapped(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    owner, attribute = crash_points._owner_of(POINTS[name].place)
    monkeypatch.setattr(owner, attribute, vars(owner)[attribute])  # and put back afterwards
    crash_points.install(POINTS[name], lambda: None)


@pytest.mark.parametrize(
    "point",
    [
        CrashPoint("worker", "workers.moving:call_rout", "reply"),
        CrashPoint("worker", "workers.movin:call_route", "reply"),
        CrashPoint("worker", "workers.router:Router.forward", "before"),
        # It is there, and cannot be wrapped like this: it takes no callback, or is over before it is done.
        CrashPoint("worker", "workers.router:Router._forward", "reply"),
        CrashPoint("worker", "workers.moving:call_route", "after"),
    ],
    ids=["function", "module", "method", "no callback", "no coroutine"],
)
def test_what_was_renamed_or_changed_is_noticed(point: CrashPoint) -> None:
    with pytest.raises(NoSuchPoint):
        crash_points.install(point, lambda: None)


def test_a_process_armed_with_a_point_that_is_not_there_says_so_and_does_not_start(tmp_path: Path) -> None:
    ended = run(
        "import sys\n"
        "from chaos import crash_points, launch\n"
        "crash_points.POINTS['gone'] = crash_points.CrashPoint('worker', 'workers.moving:gone', 'before')\n"
        f"words = ['--crash', 'gone', '--fired', {str(tmp_path / 'fired')!r}, '--', 'settings']\n"
        "sys.exit(launch.main(words))"
    )
    assert ended.returncode == EXIT_NO_SUCH_POINT
    assert "workers.moving:gone" in ended.stderr


@pytest.mark.parametrize("moment", ["before", "after"])
def test_the_process_ends_at_the_nth_passage_and_has_told_so(moment: str, tmp_path: Path) -> None:
    fired = tmp_path / "fired"
    ended = run(
        "import asyncio\n"
        "from chaos import crash_points, launch\n"
        "from chaos.notes import Notes\n"
        "from broker.streams.link import Link\n"
        "from pathlib import Path\n"
        "crash_points.POINTS['here'] = crash_points.CrashPoint("
        f"'worker', 'broker.streams.link:Link.close', {moment!r})\n"
        f"launch._arm('here', 3, Notes(Path({str(fired)!r})))\n"
        "async def go():\n"
        "    link = Link('redis://127.0.0.1:1', name='x')\n"
        "    for n in range(5):\n"
        "        print(n, flush=True)\n"
        "        await link.close()\n"
        "asyncio.run(go())"
    )
    assert ended.returncode == -signal.SIGKILL
    assert ended.stdout.split() == ["0", "1", "2"]
    (line,) = lines(fired)
    assert (line["point"], line["nth"]) == ("here", 3)


def test_every_role_has_points() -> None:
    assert {point.role for point in POINTS.values()} == {"gateway", "worker", "recorder", "keeper"}
