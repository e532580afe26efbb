"""`python -m bench [names...]`: run the benchmarks in turn and write an index of their results.

A program that fails does not stop the others; its old results are removed before it runs, so that nothing in
the index is older than it looks. Exit codes: 0, 1 where one failed, 2 for an unknown name, 130 stopped.
"""

import argparse
import importlib.util
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from rich.console import Console

from bench.kit.children import run_child, stop_on_sigterm
from bench.kit.index import write_index
from bench.kit.program import OUT

PROGRAMS: Final = (
    "end_to_end",
    "http_publish",
    "routing",
    "many_agents",
    "backlog",
    "queries",
    "scale_out",
    "head_of_line",
    "flood",
    "peers",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run what was asked for; return the exit code."""
    parser = argparse.ArgumentParser(prog="bench", description="Runs the benchmarks in turn.")
    add = parser.add_argument
    add("names", nargs="*", help=f"which: {', '.join(PROGRAMS)}; a beginning is enough (default all)")
    add("--quick", action="store_true", help="seconds instead of minutes: shows that they work")
    add("--out", type=Path, default=OUT, help=f"where results are written (default {OUT})")
    args = parser.parse_args(argv)
    try:
        names = chosen(args.names)
    except LookupError as error:
        parser.error(str(error))
    console = Console()
    stop_on_sigterm()
    try:
        failed = run_all(names, quick=args.quick, out=args.out, console=console)
    except KeyboardInterrupt:
        console.print("stopped", style="yellow")
        return 130
    if failed:
        console.print(f"failed: {', '.join(failed)}", style="red")
    return 1 if failed else 0


def chosen(wanted: Sequence[str]) -> list[str]:
    """Return the programs meant by names or beginnings of names, in the order they run; all that exist for
    none. Raises: LookupError.
    """
    if not wanted:
        return [name for name in PROGRAMS if exists(name)]
    meant = {_meant(word) for word in wanted}
    return [name for name in PROGRAMS if name in meant]


def exists(name: str) -> bool:
    """Whether the program is there: a module, or a package that can be run."""
    spec = importlib.util.find_spec(f"bench.{name}")
    if spec is not None and spec.submodule_search_locations is not None:
        spec = importlib.util.find_spec(f"bench.{name}.__main__")
    return spec is not None


def run_all(names: Sequence[str], *, quick: bool, out: Path, console: Console) -> list[str]:
    """Run programs one after the other, bring the index up to date after each, return which failed."""
    failed = {}
    for name in names:
        console.rule(name)
        forget(name, out)
        code = run_child(
            [sys.executable, "-m", f"bench.{name}", *(["--quick"] if quick else []), "--out", str(out)],
            env=os.environ,
        )
        if code:
            failed[name] = code
            console.print(f"{name} failed with exit code {code}", style="red")
        write_index(out, PROGRAMS, failed)
    return list(failed)


def forget(name: str, out: Path) -> None:
    """Remove a program's results of an earlier run."""
    for path in (out / f"{name}.json", out / f"{name}.md", *out.glob(f"{name}-*.svg")):
        path.unlink(missing_ok=True)


def _meant(word: str) -> str:
    found = [name for name in PROGRAMS if name == word] or [
        name for name in PROGRAMS if name.startswith(word)
    ]
    if len(found) != 1:
        raise LookupError(f"{word}: name one of {', '.join(found or PROGRAMS)}")
    if not exists(found[0]):
        raise LookupError(f"{found[0]} is not there")
    return found[0]


if __name__ == "__main__":
    sys.exit(main())
