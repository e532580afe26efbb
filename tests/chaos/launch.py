"""Start the product's command line in this process, with faults that only tests can turn on.

    python -m chaos.launch [--crash POINT --nth N --fired FILE] [--clock FILE] [--mutant NAME] -- worker ...

Functions are wrapped before `broker.cli.main` runs. A point that names nothing ends the process with exit
code 70 at once: a harness whose faults no longer fit the product must not pass.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from chaos import clock, crash_points
from chaos.dying import die_with_parent
from chaos.notes import Notes

EXIT_NO_SUCH_POINT = 70


def main(argv: Sequence[str]) -> int:
    """Install what is asked for, then run the product."""
    die_with_parent()
    args = _parser().parse_args(argv)
    if args.clock:
        clock.install(Path(args.clock))
    if args.mutant:
        from mutants import switches

        switches.apply(args.mutant)
    if args.crash:
        try:
            _arm(args.crash, args.nth, Notes(Path(args.fired)))
        except crash_points.NoSuchPoint as error:
            sys.stderr.write(f"chaos: crash point {args.crash!r}: {error}\n")
            return EXIT_NO_SUCH_POINT
    from broker.cli import main as run

    return run(args.words)


def _arm(name: str, nth: int, fired: Notes) -> None:
    def tell() -> None:
        fired.append("fired", point=name, nth=nth, pid=os.getpid())

    crash_points.install(crash_points.POINTS[name], crash_points.kill_at(nth, tell))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="chaos.launch")
    parser.add_argument("--crash", choices=tuple(crash_points.POINTS))
    parser.add_argument("--nth", type=int, default=1)
    parser.add_argument("--fired", help="where to note that the crash point was reached")
    parser.add_argument("--clock", help="a file with the offset of this process's clock")
    parser.add_argument("--mutant", help="a deliberate fault of the product, by name")
    parser.add_argument("words", nargs="+", help="what comes after `agent-broker`")
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
