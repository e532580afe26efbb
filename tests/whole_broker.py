"""`agent-broker up` as a process, seen from outside: its children, its stores, and how they are killed."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from broker.servers.running import Running, read_running

PATIENCE_S = 100.0
SHORT = {"RETRY_TIME_SCALE": "0.002", "VALKEY_MAXMEMORY_MB": "256"}
"""Settings with times so short that nothing has to be slept through."""
KNOWN = ("PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH")
LOG_CHARS = 4_000
ROLES = ("gateway", "worker", "recorder", "keeper")


def until(found: Callable[[], object], *, what: str, otherwise: Callable[[], str] = str) -> None:
    """Wait until something holds; `otherwise` says more where it never does."""
    deadline = time.monotonic() + PATIENCE_S
    while not found():
        assert time.monotonic() < deadline, f"waited in vain: {what}\n{otherwise()}"
        time.sleep(0.02)


def free_port() -> int:
    """Return a port that nobody listened on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def environment(**settings: str) -> dict[str, str]:
    """An environment with these settings and none of the machine's own."""
    return {**{name: os.environ[name] for name in KNOWN if name in os.environ}, **settings}


class WholeBroker:
    """One data directory and the `up` on it. Started again it keeps its port."""

    def __init__(self, home: Path, *, port: int, **settings: str) -> None:
        self.data_dir = home / "data"
        self._log = home / "log"
        self._settings = {"DATA_DIR": str(self.data_dir), "PORT": str(port), "METRICS_PORT": "0", **settings}
        self._process: subprocess.Popen[bytes] | None = None

    # --- the supervisor -----------------------------------------------------------------------------------

    def start(self) -> Running:
        """Start `up` and return when it says that it is ready."""
        ready = self.log.count("Ready after")
        with self._log.open("ab") as sink:
            self._process = process = subprocess.Popen(
                [sys.executable, "-P", "-m", "broker.cli", "up"],
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env=environment(**self._settings),
            )
        until(
            lambda: self.log.count("Ready after") > ready or process.poll() is not None,
            what="the ready line",
            otherwise=self.log_tail,
        )
        assert process.poll() is None, self.log_tail()
        return self.running

    @property
    def running(self) -> Running:
        found = read_running(self.data_dir)
        assert found is not None, self.log_tail()
        return found

    def stop(self) -> int:
        """Ask `up` to end; return its exit code."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(PATIENCE_S + 30)

    def kill_supervisor(self) -> None:
        """End `up` itself by kill -9: its children and stores are orphans then."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(PATIENCE_S)

    def kill_everything(self) -> None:
        """End `up`, its children and its stores by kill -9 at once, as a machine that goes down does."""
        stores = [self._store_pid(name) for name in ("valkey", "postgres")]
        children = [pid for role in ROLES for pid in self.pids(role)]
        for pid in (*stores, *children):
            os.kill(pid, signal.SIGKILL)
        self.kill_supervisor()

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    # --- its processes ------------------------------------------------------------------------------------

    def pids(self, role: str) -> set[int]:
        """Return the live processes of a role: gateway, worker, recorder, keeper."""
        notes = self.data_dir / "children"
        lines = notes.read_text().splitlines() if notes.exists() else []
        return {pid for pid in (int(line.split()[0]) for line in lines) if _is_role(pid, role)}

    def pid(self, role: str) -> int:
        """Return the one process of a role, waiting for it where it is being started."""
        until(lambda: len(self.pids(role)) == 1, what=f"one {role}", otherwise=self.log_tail)
        return next(iter(self.pids(role)))

    def signal(self, role: str, signum: signal.Signals) -> None:
        """Signal the process of a role, and return when another has taken its place."""
        pid = self.pid(role)
        os.kill(pid, signum)
        until(lambda: pid not in self.pids(role), what=f"the end of {role}", otherwise=self.log_tail)
        assert self.pid(role) != pid

    def draining(self) -> int:
        """Return how many shards the worker has stopped routing for so far: it delivers no more then, and
        waits for what is in flight."""
        return self._count('"event":"lease.given_up".*"trade":"route"')

    def kill_store(self, name: str) -> None:
        """End `valkey` or `postgres` by kill -9 and return when `up` has noticed."""
        ended = rf'"event":"server.ended".*"server":"{name}"'
        before = self._count(ended)
        os.kill(self._store_pid(name), signal.SIGKILL)
        until(lambda: self._count(ended) > before, what=f"the end of {name}", otherwise=self.log_tail)

    def _store_pid(self, name: str) -> int:
        if name == "postgres":
            return int((self.data_dir / "postgres/data/postmaster.pid").read_text().split()[0])
        (pid_file,) = (self.data_dir / "valkey").glob("*.pid")
        return int(pid_file.read_text())

    # --- what it says -------------------------------------------------------------------------------------

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def log_tail(self) -> str:
        return self.log[-LOG_CHARS:]

    def _count(self, pattern: str) -> int:
        return len(re.findall(pattern, self.log))


def _is_role(pid: int, role: str) -> bool:
    """Tell whether a process lives (a zombie does not) and runs `agent-broker <role>`."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\x00")
    except OSError:
        return False
    return state != "Z" and b"broker.cli" in words and role.encode() in words
