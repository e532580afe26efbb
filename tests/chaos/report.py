"""The report of a run, in JSON and in Markdown: every figure, every gate, what was not tested."""

import os
import platform
import subprocess
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

NOT_TESTED: Final = (
    "How few duplicates there could be: what counts as in flight at a fault reaches from half a second before"
    " it to two after, which under constant faults is much of the traffic.",
    "Power loss: servers are killed, the machine is not, so what the kernel holds is never lost.",
    "Several hosts: all processes share one machine and its kernel clock.",
    "The servers' clocks and `datetime.now` are not stepped; `time.time` and `time.time_ns` of the broker's"
    " own processes are.",
    "Replicas, Sentinel and Redis Cluster: one Redis primary, as is the default.",
    "TLS between the processes, and towards receivers.",
    "Packet loss and reordering below TCP: the proxy delays, stops, cuts and resets connections.",
    "Work orders, contacts, live sockets and event streams: messages only.",
    "Days: retention and partitions that change while something is broken.",
)


class Gate(Struct):
    """One thing that must hold."""

    name: str
    figure: int
    limit: int
    passed: bool
    at_least: bool = False


class Report(Struct):
    """A run and what came of it."""

    seed: int
    commit: str
    machine: str
    began: str
    minutes: float
    chaos_minutes: float
    mutant: str
    settings: dict[str, str]
    figures: dict[str, int]
    ends: dict[str, int]
    faults: dict[str, int]
    crash_points: dict[str, int]
    skipped: dict[str, int]
    exits: dict[str, dict[str, int]]
    events: dict[str, int]
    links: dict[str, dict[str, int]]
    left_in_redis: dict[str, int]
    gates: list[Gate]
    offenders: dict[str, list[str]]
    canary_hits: dict[str, int]
    not_tested: tuple[str, ...] = NOT_TESTED

    @property
    def passed(self) -> bool:
        return all(gate.passed for gate in self.gates)


def commit() -> str:
    """Return the commit of this checkout, and whether it was changed."""
    try:
        words = ("git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*")
        return subprocess.run(words, capture_output=True, check=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def machine() -> str:
    """Describe this machine."""
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3
    return (
        f"{os.cpu_count()} CPUs, {memory_gib:.0f} GiB, {platform.system()} {platform.release()}, "
        f"Python {platform.python_version()}"
    )


def write(report: Report, folder: Path, name: str) -> Path:
    """Write both forms; return the Markdown one."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_bytes(msgspec.json.format(msgspec.json.encode(report)) + b"\n")
    page = folder / f"{name}.md"
    page.write_text(markdown(report))
    return page


def markdown(report: Report) -> str:
    """Return the report for people."""
    verdict = "all gates passed" if report.passed else "**FAILED**"
    n = report.figures.get("acknowledged", 0)
    parts = [
        f"# Chaos run, seed {report.seed}: {verdict}",
        f"Commit {report.commit}, {report.began}, {report.minutes:.0f} minutes, faults during "
        f"{report.chaos_minutes:.0f} of them, on {report.machine}."
        + (f" Mutant: {report.mutant}." if report.mutant else ""),
        f"Lost 0 of n means: fewer than 3/n at 95 % confidence. Here n = {n:,}: below {3 / n:.1e}."
        if n and not report.offenders.get("lost")
        else "",
        "## Gates",
        _table(
            ("gate", "figure", "must be", ""),
            [
                (
                    gate.name,
                    f"{gate.figure:,}",
                    f"{'at least' if gate.at_least else 'at most'} {gate.limit:,}",
                    "passed" if gate.passed else "**failed**",
                )
                for gate in report.gates
            ],
        ),
        "## Figures",
        _counts("figure", report.figures),
        "## How messages ended",
        _counts("status: reason", report.ends),
        "## Faults",
        _counts("fault", report.faults),
        "### Crash points that were reached",
        _counts("point", report.crash_points),
        "### Drawn, and not done",
        _counts("fault", report.skipped) if report.skipped else "None.",
        "## Processes",
        "How each ended, and how often.",
        _table(
            ("process", "ends"),
            [
                (name, ", ".join(f"{how} ({n})" for how, n in ends.items()))
                for name, ends in report.exits.items()
            ],
        ),
        "Warnings and errors they logged:",
        _counts("event", report.events),
        "## Links through the proxy",
        _table(
            ("link", "connections", "bytes"),
            [(name, f"{link['opened']:,}", f"{link['bytes']:,}") for name, link in report.links.items()],
        ),
        "## Settings",
        _table(("setting", "value"), list(report.settings.items())),
        "## Not tested here",
        "\n".join(f"- {line}" for line in report.not_tested),
    ]
    if report.offenders:
        parts += ["## Offenders", "Their histories are in `offenders/` of the run's folder."]
        parts += [f"- {name}: {', '.join(ids[:10])}" for name, ids in report.offenders.items()]
    return "\n\n".join(part for part in parts if part) + "\n"


def _counts(word: str, counts: dict[str, int]) -> str:
    return _table((word, "count"), [(name, f"{count:,}") for name, count in counts.items()])


def _table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, tuple("---" if n == 0 else "---:" for n in range(len(head))), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
