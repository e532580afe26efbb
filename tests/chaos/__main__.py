"""`python -m chaos`: one run of the chaos harness. See docs/chaos.md.

Exit codes: 0 every gate passed, 1 one did not, 2 wrong arguments.
"""

import argparse
import asyncio
import random
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from chaos import campaign, report
from chaos.deployment import Wanted


def main() -> int:
    """Run, report, and keep what is needed to find a failure."""
    args = _arguments()
    seed = args.seed if args.seed is not None else random.randrange(10**6)
    name = f"chaos-{seed}"
    folder = Path(args.work) / f"{time.strftime('%Y%m%d-%H%M%S')}-{seed}"
    home = Path(tempfile.mkdtemp(prefix="ab-chaos-"))
    home.chmod(0o711)
    wanted = Wanted(
        seed=seed,
        minutes=args.minutes,
        folder=folder,
        home=home,
        rate=args.rate,
        brief=args.brief,
        mutant=args.mutant,
        aims=args.full,
    )
    print(f"seed {seed}; logs, ledgers and journal in {folder}", file=sys.stderr)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        found = asyncio.run(campaign.run(wanted))
    except KeyboardInterrupt:
        print("chaos: ended before its time", file=sys.stderr)
        return 130
    finally:
        shutil.rmtree(home, ignore_errors=True)
    page = report.write(found, Path(args.out), name)
    print(page.read_text())
    return 0 if found.passed else 1


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos")
    parser.add_argument("--seed", type=int, help="of the schedule (default: a new one)")
    parser.add_argument("--minutes", type=float, default=30.0, help="of faults (default 30)")
    parser.add_argument("--rate", type=float, default=40.0, help="messages a second (default 40)")
    parser.add_argument("--brief", action="store_true", help="each kind of fault a few times, and quick")
    parser.add_argument("--full", action="store_true", help="the gates hold a full run's numbers, too")
    parser.add_argument("--mutant", default="", help="a deliberate fault of the product, by name")
    parser.add_argument("--out", default="build/chaos", help="where the report goes")
    parser.add_argument("--work", default="build/chaos", help="where logs and ledgers go")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
