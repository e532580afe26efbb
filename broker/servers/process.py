"""What both embedded servers need: starting in a session of their own, waiting, stopping, finding leftovers.

A server runs in its own session, so that Ctrl-C at the terminal reaches the supervisor alone, which stops
things in order. It survives a kill -9 of whoever started it; the next start finds it by its pid file, makes
sure by its command line that the pid is really ours (pids are reused), and stops it.
"""

import os
import pwd
import random
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from schema.errors import Unavailable

POLL_S = 0.01
REAP_S = 5.0
QUIET_PORTS = (15_000, 32_000)
GUESSES_MAX = 100
PORT_WAIT_S = 2.0
LOG_TAIL_BYTES = 2_000
SOCKET_PATH_BYTES_MAX = 100
"""Unix socket paths end at 103 (macOS) or 107 bytes (Linux)."""


class ServerFailed(Unavailable):
    """An embedded server did not start or did not stop; the message says why and quotes its log."""

    code = "server_failed"


class ServerProcess:
    """One started server process and its log file. `defaults`: environment variables it gets where ours does
    not set them."""

    def __init__(
        self, argv: Sequence[str], *, log: Path, cwd: Path, defaults: Mapping[str, str] | None = None
    ) -> None:
        with log.open("ab") as sink:
            self._log_start = sink.tell()
            self._popen = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env={**(defaults or {}), **os.environ},
                start_new_session=True,
            )
        self.pid = self._popen.pid
        self._log = log

    def exit_code(self) -> int | None:
        """Return the exit code, negative for a signal, or None while it runs."""
        return self._popen.poll()

    def wait_ready(self, is_ready: Callable[[], bool], *, timeout_s: float) -> bool:
        """Wait until the server is ready; False when it ended instead.

        Raises: ServerFailed when it is neither in time; it has been killed then.
        """
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if self.exit_code() is not None:
                return False
            if is_ready():
                return True
            time.sleep(POLL_S)
        self.stop([(signal.SIGKILL, 5.0)])
        raise ServerFailed(f"not ready after {timeout_s:.0f} s; its log ends: {self.log_tail()}")

    def stop(self, steps: Sequence[tuple[signal.Signals, float]]) -> int:
        """Send each signal in turn, waiting its seconds, until the server has ended; return its exit code.

        Raises: ServerFailed when it outlives them all.
        """
        for signum, seconds in steps:
            if self.exit_code() is None:
                self._popen.send_signal(signum)
            try:
                return self._popen.wait(seconds)
            except subprocess.TimeoutExpired:
                continue
        raise ServerFailed(f"process {self.pid} does not end")

    def reap(self) -> None:
        """Collect a process that has just been ended by other means, so that no zombie stays."""
        with suppress(subprocess.TimeoutExpired):
            self._popen.wait(REAP_S)

    def log_tail(self) -> str:
        """Return the end of what it logged since this start."""
        text = self._log.read_bytes()[self._log_start :][-LOG_TAIL_BYTES:]
        return text.decode(errors="replace").strip() or "(nothing logged)"


def require_ours(directory: Path) -> None:
    """Refuse a directory another user made: the server would leave files there that its owner cannot touch.

    Raises: ServerFailed, saying whose it is.
    """
    owner = directory.stat().st_uid
    if owner == os.geteuid():
        return
    try:
        name = pwd.getpwuid(owner).pw_name
    except KeyError:
        name = f"uid {owner}"
    raise ServerFailed(f"{directory} belongs to {name}; start as that user, or choose another data directory")


def read_pid(pid_file: Path) -> int | None:
    """Return the pid in the first line of a pid file, or None."""
    try:
        return abs(int(pid_file.read_text().split("\n", 1)[0]))
    except (OSError, ValueError):
        return None


def runs_with(pid: int, mark: str) -> bool:
    """Tell whether the process is alive and its command line holds the mark (a zombie has none)."""
    proc = Path("/proc")
    if (proc / "self" / "cmdline").exists():
        try:
            line = (proc / str(pid) / "cmdline").read_bytes()
        except OSError:
            return False
        return mark.encode() in line
    shown = subprocess.run(["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, check=False)
    return mark.encode() in shown.stdout


def stop_leftover(pid: int, mark: str, steps: Sequence[tuple[signal.Signals, float]]) -> None:
    """Stop a server an earlier run left behind. It is no child of ours, so its end is polled for.

    Raises: ServerFailed when it may not be signalled or does not end.
    """
    for signum, seconds in steps:
        try:
            os.kill(pid, signum)
        except ProcessLookupError:
            return
        except PermissionError:
            raise ServerFailed(
                f"process {pid} holds the data directory and belongs to another user"
            ) from None
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not runs_with(pid, mark):
                return
            time.sleep(POLL_S)
    raise ServerFailed(f"process {pid} from an earlier run does not end")


def choose_port(wanted: int) -> int:
    """Return the wanted loopback port if it is free, else (and for 0) some free one.

    Chosen below the range from which the kernel gives ports to outgoing connections: between our look and the
    server's bind, one of thousands of those would take it now and then.
    """
    guesses = [random.randrange(*QUIET_PORTS) for _ in range(GUESSES_MAX)]
    for port in filter(None, (wanted, *guesses)):
        if is_free("127.0.0.1", port):
            return port
    raise ServerFailed("no free port on 127.0.0.1")


def is_free(host: str, port: int) -> bool:
    """Tell whether a server could listen there now."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        # A port whose last user has just gone is free for a server, which sets this too.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def is_free_again(port: int) -> bool:
    """Tell whether the loopback port of a server that has just ended is free, or gets so in a moment: a child
    of it, writing a file, may hold it a little longer."""
    deadline = time.monotonic() + PORT_WAIT_S
    while not is_free("127.0.0.1", port):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL_S)
    return True


def kept_secret(path: Path) -> str:
    """Return the secret in the file, made (mode 600) if there is none."""
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        write_private(path, secrets.token_urlsafe(32))
        return path.read_text().strip()


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read, whole or not at all."""
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as sink:
        sink.write(text)
    draft.replace(path)


def kept_port(path: Path) -> int | None:
    """Return the port an earlier start chose, or None."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def keep_port(path: Path, port: int) -> None:
    """Write down the port for the next start; never half of it, or the URLs everybody has would be lost."""
    if kept_port(path) != port:
        write_private(path, str(port))


@contextmanager
def refusals_as_failures(home: Path) -> Iterator[None]:
    """Turn what the file system refuses (it is full, read-only) into what callers wait out and try again.

    Raises: ServerFailed.
    """
    try:
        yield
    except OSError as error:
        raise ServerFailed(f"{home} cannot be used: {error}") from error
