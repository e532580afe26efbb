"""As whom an embedded PostgreSQL runs: ourselves, or, for root, an unprivileged user that exists already.

The owner of an existing data directory wins, so that a directory made as one user keeps working as root.
"""

import os
import pwd
import sys
from collections.abc import Sequence
from pathlib import Path

from broker.servers import unprivileged
from broker.servers.process import ServerFailed

_CANDIDATES = ("nobody", "postgres", "daemon", "bin")
_ROOT = 0


class Account:
    """The user a server runs as."""

    def __init__(self, uid: int, gid: int) -> None:
        self._uid = uid
        self._gid = gid

    def command(self, program: Sequence[str], *, reach: Sequence[Path]) -> list[str]:
        """Return the command that runs the program as this user; `reach` is what it must get at."""
        if os.geteuid() == self._uid:
            return list(program)
        launcher = [sys.executable, "-I", "-S", str(unprivileged.__file__), str(self._uid), str(self._gid)]
        return [*launcher, *map(str, reach), "--", *program]

    def own(self, path: Path) -> None:
        """Give the user a file or directory of ours."""
        if os.geteuid() == _ROOT:
            os.chown(path, self._uid, self._gid)


def account_for(data_dir: Path) -> Account:
    """Choose the user for a data directory, which need not exist yet.

    Raises: ServerFailed when there is none.
    """
    if os.geteuid() != _ROOT:
        _require_name(os.geteuid())
        return Account(os.geteuid(), os.getegid())
    owner = data_dir.stat() if data_dir.exists() else None
    if owner is not None and owner.st_uid != _ROOT:
        return Account(owner.st_uid, owner.st_gid)
    for name in _CANDIDATES:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise ServerFailed(
        "PostgreSQL does not run as root, and none of the users "
        f"{', '.join(_CANDIDATES)} exists here; start as an ordinary user, or set DATABASE_URL"
    )


def _require_name(uid: int) -> None:
    """PostgreSQL's initdb looks its own user up by number and gives up when it has no name."""
    try:
        pwd.getpwuid(uid)
    except KeyError:
        raise ServerFailed(
            f"PostgreSQL needs a user with a name, and uid {uid} has no entry in the user database; "
            "add one, or set DATABASE_URL"
        ) from None
