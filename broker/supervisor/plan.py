"""Which processes `up` consists of, in the order they stop: first who brings work, last who ends it."""

import os
import secrets
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from broker.servers.process import choose_port, kept_secret
from broker.settings import Settings
from broker.supervisor.child import Child
from broker.supervisor.data_directory import DataDirectory
from broker.supervisor.lifeline import VARIABLE, Lifeline
from broker.supervisor.stores import Stores

LOOPBACK: Final = "127.0.0.0/8,::1/128"
GRACE_S: Final = 5.0
"""What a process may take beyond its drain time before it is killed."""
OPERATOR_KEY_FILE: Final = "operator-key"
PEPPER_FILE: Final = "key-pepper"
SECRETS_FILE: Final = "secrets-key"
NAME_FILE: Final = "name"
"""What tells this data directory's processes from others' on the same stores; the same after every restart,
so that a process started again takes its leases back at once."""

Stages = list[list[Child]]
"""Children by stage; a stage is stopped when the one before has ended."""


class Plan:
    """The children of one `up`, and where their metrics are."""

    def __init__(
        self, settings: Settings, directory: DataDirectory, lifeline: Lifeline, environment: Mapping[str, str]
    ) -> None:
        self.metrics_ports: dict[str, int] = {}
        self._stop_s = settings.drain_timeout_ms / 1000 + GRACE_S
        self._directory = directory
        self._lifeline = lifeline
        self._environment = {
            **environment,
            VARIABLE: str(lifeline.reading_end),
            # Children find each other's tracebacks by it, and orphans are recognised by it.
            "PYTHONUNBUFFERED": "1",
        }
        self._instance = secrets.token_hex(8)
        self._name = kept_secret(directory.path / NAME_FILE)[:8]
        self._noted: dict[int, str] = {}

    def stages(self, workers: int) -> Stages:
        """Return the broker's own processes."""
        return [
            [self._role("gateway")],
            [self._role("worker", f"worker-{number}") for number in range(1, workers + 1)],
            [self._role("recorder")],
            [self._role("keeper")],
        ]

    def child(self, name: str, argv: list[str]) -> Child:
        """Return a child that runs the command with the plan's environment and ends with its supervisor."""
        return Child(
            name,
            argv,
            environment=lambda: self._environment_of(name),
            inherit=(self._lifeline.reading_end, self._directory.children_lock),
            stop_s=self._stop_s,
            on_start=self._note,
        )

    def _role(self, role: str, name: str = "") -> Child:
        # -P: a directory called `broker` where `up` was typed must not stand in for the package.
        argv = [sys.executable, "-P", "-m", "broker.cli", role, "--instance", self._instance]
        return self.child(name or role, argv)

    def _environment_of(self, name: str) -> Mapping[str, str]:
        port = self.metrics_ports[name] = choose_port(0)
        return {
            **self._environment,
            "METRICS_HOST": "127.0.0.1",
            "METRICS_PORT": str(port),
            "PROCESS_NAME": f"{name}.{self._name}",
        }

    def _note(self, child: Child) -> None:
        self._noted = {pid: mark for pid, mark in self._noted.items() if _is_alive(pid)}
        if child.pid is not None:
            self._noted[child.pid] = child.mark
        self._directory.note_children(self._noted)


def environment_for_children(settings: Settings, stores: Stores, data_dir: Path) -> dict[str, str]:
    """Return this process's environment with everything decided that `up` decides."""
    return {
        **os.environ,
        "REDIS_URL": stores.redis_url_for_children,
        "DATABASE_URL": stores.database_url,
        "AGENT_API_KEY": settings.agent_api_key or kept_secret(data_dir / OPERATOR_KEY_FILE),
        "KEY_PEPPER": settings.key_pepper or kept_secret(data_dir / PEPPER_FILE),
        "SECRETS_KEY": secrets_keys(settings, data_dir),
        "ENDPOINT_ALLOW_CIDRS": ",".join(map(str, settings.endpoint_allow_cidrs)) or LOOPBACK,
        "CLOSED_LOCAL_PORTS": ",".join(_closed_ports(settings, stores)),
        "HOST": settings.host,
        "PORT": str(settings.port),
        "DATA_DIR": str(data_dir),
        "LOG_FORMAT": settings.log_format,
        "LOG_LEVEL": settings.log_level,
        "MESSAGE_QUEUE_WORKERS": str(settings.message_queue_workers),
    }


def secrets_keys(settings: Settings, data_dir: Path) -> str:
    """Return the keys secrets are encrypted with: those that are set, and the data directory's own, made
    where none is set. One that is set later encrypts from then on; the directory's still opens what it has
    sealed."""
    path = data_dir / SECRETS_FILE
    if settings.secrets_key and not path.exists():
        return settings.secrets_key
    return ",".join(filter(None, (settings.secrets_key, kept_secret(path))))


def _closed_ports(settings: Settings, stores: Stores) -> list[str]:
    """Return what no endpoint may lie at although loopback is allowed, and a child's own settings do not say:
    our metrics, and the TCP port of our own Valkey, which children reach by its socket."""
    ours = [settings.metrics_port, urlsplit(stores.redis_url).port]
    return [*map(str, settings.closed_local_ports), *(str(port) for port in ours if port)]


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


MakeStages = Callable[[Plan, Settings], Stages]


def broker_stages(plan: Plan, settings: Settings) -> Stages:
    """Return the broker's own processes, as many workers as the settings say."""
    return plan.stages(settings.message_queue_workers)
