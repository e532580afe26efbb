"""Where the unix sockets of embedded servers lie.

In the server's own directory when the path is short enough for the kernel, else in a fresh directory of mode
700 under the system's temporary directory, whose path is kept in a file so that the next start removes it.
"""

import os
import shutil
import tempfile
from pathlib import Path

from broker.servers.process import SOCKET_PATH_BYTES_MAX

_LONGEST_NAME = "/.s.PGSQL.65535"


class SocketDirectory:
    """The directory for one server's sockets."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._note = home / "socket-directory"

    def create(self) -> Path:
        """Return the directory, made if need be; one that an earlier run left elsewhere is removed."""
        self.remove()
        near = self._home / "run"
        if len(os.fsencode(f"{near}{_LONGEST_NAME}")) <= SOCKET_PATH_BYTES_MAX:
            near.mkdir(mode=0o700, exist_ok=True)
            return near
        far = Path(tempfile.mkdtemp(prefix="agent-broker-"))
        self._note.write_text(str(far))
        return far

    def remove(self) -> None:
        """Remove a directory made outside the data directory."""
        try:
            far = Path(self._note.read_text())
        except OSError:
            return
        if far.name.startswith("agent-broker-"):
            shutil.rmtree(far, ignore_errors=True)
        self._note.unlink(missing_ok=True)
