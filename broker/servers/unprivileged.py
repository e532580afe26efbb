"""Become an unprivileged user, then run a program; for PostgreSQL, which refuses to run as root.

Run as a script (`python -I -S unprivileged.py <uid> <gid> <path>... -- <program> <argument>...`), so that
the step happens in a process of its own with no threads, and the program keeps its pid. It imports nothing
of ours.

The paths are what the program must reach. Where the user cannot reach one (a clone under /root or in a
directory of mode 700, a wheel installed under umask 077), the program keeps CAP_DAC_OVERRIDE as an ambient
capability: the alternative is to open up directories that belong to somebody else. Linux only; elsewhere the
program simply fails, in words of its own.
"""

import ctypes
import os
import sys
from typing import NoReturn

_PR_SET_KEEPCAPS = 8
_PR_SET_SECUREBITS = 28
_SECBIT_NO_SETUID_FIXUP = 1 << 2
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_RAISE = 2
_CAPABILITY_VERSION_3 = 0x20080522
_CAP_DAC_OVERRIDE = 1
_CAP_SETPCAP = 8


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Sets(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


def main(argv: list[str]) -> NoReturn:
    """Drop to the user and replace this process by the program."""
    split = argv.index("--")
    uid, gid, paths, program = int(argv[0]), int(argv[1]), argv[2:split], argv[split + 1 :]
    libc = ctypes.CDLL(None, use_errno=True)
    linux = sys.platform == "linux"
    if linux:
        libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)
    os.setgroups([])
    os.setgid(gid)
    os.setuid(uid)
    if linux:
        # setuid has emptied the effective set, so what can be reached here is what the user itself can.
        out_of_reach = [path for path in paths if not _reaches(path)]
        if out_of_reach and not _keep_access(libc):
            sys.exit(f"user {uid} cannot reach {out_of_reach[0]}, and the kernel does not grant an exception")
    os.execv(program[0], program)  # noqa: S606  # a list, no shell


def _reaches(path: str) -> bool:
    return os.access(path, os.X_OK)


def _keep_access(libc: ctypes.CDLL) -> bool:
    """Keep the one capability, through exec; tell whether the kernel allowed it."""
    override = 1 << _CAP_DAC_OVERRIDE
    return (
        _set_capabilities(libc, override | 1 << _CAP_SETPCAP)
        # Without this, access(2), by which PostgreSQL finds its own programs, disregards capabilities.
        and libc.prctl(_PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP, 0, 0, 0) == 0
        and _set_capabilities(libc, override)
        and libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _CAP_DAC_OVERRIDE, 0, 0) == 0
    )


def _set_capabilities(libc: ctypes.CDLL, bits: int) -> bool:
    header = _Header(_CAPABILITY_VERSION_3, 0)
    sets = (_Sets * 2)()
    sets[0] = _Sets(bits, bits, bits)
    refused: int = libc.capset(ctypes.byref(header), sets)
    return refused == 0


if __name__ == "__main__":
    main(sys.argv[1:])
