"""Where the unix sockets of embedded servers lie.

In the server's own directory when the path is short enough for the kernel, else in a fresh directory of mode
700 under the temporary directory (the system's own where TMPDIR is too long as well), whose path is kept in a
file so that the next start removes it.
"""

import os
import shutil
import tempfile
from pathlib import Path
from typing import Final

from broker.servers.process import SOCKET_PATH_BYTES_MAX

_LONGEST_NAME: Final = "/.s.PGSQL.65535"
_PREFIX: Final = "agent-broker-"
_SYSTEM: Final = "/tmp"  # noqa: S108  # mkdtemp makes a directory in it that is nobody else's


class SocketDirectory:
    """The directory for one server's sockets."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._note = home / "socket-directory"
        self._made: Path | None = None

    def create(self) -> Path:
        """Return the directory, made if need be; one that an earlier run left elsewhere is removed.

        Until `remove` it stays the same: by it a server that is started again is known to others.
        """
        if self._made is None or not self._made.is_dir():
            self.remove()
            self._made = self._make()
        return self._made

    def _make(self) -> Path:
        near = self._home / "run"
        if _is_short_enough(near):
            near.mkdir(mode=0o700, exist_ok=True)
            return near
        far = _far_directory()
        self._note.write_text(str(far))
        return far

    def remove(self) -> None:
        """Remove a directory made outside the data directory."""
        self._made = None
        try:
            far = Path(self._note.read_text())
        except OSError:
            return
        if far.name.startswith(_PREFIX):
            shutil.rmtree(far, ignore_errors=True)
        self._note.unlink(missing_ok=True)


def _far_directory() -> Path:
    far = Path(tempfile.mkdtemp(prefix=_PREFIX))
    if _is_short_enough(far):
        return far
    far.rmdir()
    return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=_SYSTEM))


def _is_short_enough(directory: Path) -> bool:
    return len(os.fsencode(f"{directory}{_LONGEST_NAME}")) <= SOCKET_PATH_BYTES_MAX
