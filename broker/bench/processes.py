"""CPU time of processes, read from /proc (Linux), and which part of the broker each process is.

The sum of a tree counts what its dead children used as soon as their parent has waited for them, so
short-lived Postgres backends are not forgotten. The kernel counts in ticks of 10 ms: 0.2 us a message over
50,000.
"""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from msgspec import Struct

TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
ROLES: Final = ("gateway", "worker", "recorder", "keeper")
PROC: Final = Path("/proc")


class Process(Struct, frozen=True):
    """A process; `ticks` is user and system time, its own and that of children it has waited for."""

    pid: int
    parent: int
    name: str
    ticks: int


def parse_stat(text: str) -> Process:
    """Read /proc/<pid>/stat, see proc(5). The name is in parentheses and may itself hold some."""
    head, _, tail = text.rpartition(")")
    pid, _, name = head.partition(" (")
    fields = tail.split()
    # Fields counted from state (3rd in proc(5)): ppid is the 4th there, utime to cstime the 14th to 17th.
    return Process(pid=int(pid), parent=int(fields[1]), name=name, ticks=sum(map(int, fields[11:15])))


def role_of(name: str, command: Iterable[str]) -> str | None:
    """Return the part a process plays, from its name and command line; None for a stranger."""
    if "valkey" in name or "redis" in name:
        return "valkey"
    if "postgres" in name:
        return "postgres"
    words = list(command)
    return next((role for role in ROLES if role in words), None)


def tree(table: Mapping[int, Process], root: int) -> list[int]:
    """Return a process and all its descendants, parents first."""
    children: dict[int, list[int]] = {}
    for process in table.values():
        children.setdefault(process.parent, []).append(process.pid)
    found = [root] if root in table else []
    for pid in found:
        found.extend(children.get(pid, ()))
    return found


def read_table() -> dict[int, Process]:
    """Return every process of the machine that is still there when it is read."""
    table = {}
    for entry in PROC.iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                process = parse_stat((entry / "stat").read_text())
                table[process.pid] = process
    return table


def roles_below(table: Mapping[int, Process], root: int) -> dict[int, str]:
    """Return the part of every process in a tree; one without a part of its own plays its parent's."""
    roles: dict[int, str] = {}
    for pid in tree(table, root):
        inherited = roles.get(table[pid].parent, "supervisor")
        roles[pid] = role_of(table[pid].name, _command(pid)) or inherited
    return roles


def seconds_by_role(table: Mapping[int, Process], roles: Mapping[int, str]) -> dict[str, float]:
    """Return the CPU seconds each part has used so far."""
    seconds: dict[str, float] = {}
    for pid, role in roles.items():
        if pid in table:
            seconds[role] = seconds.get(role, 0.0) + table[pid].ticks / TICKS_PER_S
    return seconds


def _command(pid: int) -> list[str]:
    with suppress(OSError):
        return (PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
    return []
