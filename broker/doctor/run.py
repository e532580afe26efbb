"""`agent-broker doctor`: examine, and say it: to people as a list, to programs as JSON."""

import argparse
import asyncio
from typing import Final

import msgspec
from rich.console import Console

from broker.core.diagnosis import Finding, Severity, fatal
from broker.doctor.examination import examine
from broker.settings import Settings

EXIT_WELL: Final = 0
EXIT_FATAL: Final = 1
_STYLES: Final = {Severity.FATAL: "bold red", Severity.WARNING: "yellow"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the doctor's own arguments."""
    parser.add_argument("--json", action="store_true", help="findings as a JSON array")


def main(args: argparse.Namespace, settings: Settings) -> int:
    """Examine and report; the exit code is 1 when anything is fatal."""
    findings = asyncio.run(examine(settings))
    console = Console(highlight=False, soft_wrap=True)
    if args.json:
        console.out(msgspec.json.encode(findings).decode())
    else:
        _report(console, findings)
    return EXIT_FATAL if fatal(findings) else EXIT_WELL


def _report(console: Console, findings: list[Finding]) -> None:
    for finding in findings:
        style = _STYLES[finding.severity]
        console.print(
            f"{finding.severity.value:8}", f"{finding.code}: {finding.message}", style=style, markup=False
        )
        console.print(f"{'':8} {finding.remedy}", markup=False)
    if not findings:
        console.print("nothing found: both stores and the settings are as they should be")
    elif not fatal(findings):
        console.print(f"{len(findings)} to look at, nothing fatal")
