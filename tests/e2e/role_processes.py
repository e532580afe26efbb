"""The roles one by one, as on several machines: `agent-broker worker` and so on, against given stores."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from scene import Place
from whole_broker import PATIENCE_S, environment, free_port

OPERATOR_KEY = "operator-key-for-tests"


class RoleProcesses:
    """Processes of one deployment. Everything still running is ended by `stop`."""

    def __init__(self, home: Path, redis_url: str, database_url: str, **settings: str) -> None:
        self._home = home
        port = free_port()
        self.place = Place(f"http://127.0.0.1:{port}", OPERATOR_KEY, redis_url, database_url)
        self._environment = environment(
            REDIS_URL=redis_url,
            DATABASE_URL=database_url,
            AGENT_API_KEY=OPERATOR_KEY,
            ENDPOINT_ALLOW_CIDRS="127.0.0.0/8",
            PORT=str(port),
            METRICS_PORT="0",
            RETRY_TIME_SCALE="0.002",
            **settings,
        )
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *words: str) -> None:
        """Start `agent-broker <words>` (the name itself where there are none) under a name."""
        with (self._home / "log").open("ab") as sink:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-P", "-m", "broker.cli", *(words or (name,))],
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={**self._environment, "PROCESS_NAME": name},
            )

    def pid(self, name: str) -> int:
        """Return the process id of a process."""
        return self._processes[name].pid

    def events(self, name: str, process: str) -> list[dict[str, Any]]:
        """Return the events of this name that a process has logged."""
        lines = (self._home / "log").read_bytes().split(b"\n")[:-1]
        found = (json.loads(line) for line in lines if line.startswith(b"{"))
        return [event for event in found if event["event"] == name and event.get("process") == process]

    def kill(self, name: str) -> None:
        """End a process by kill -9."""
        process = self._processes.pop(name)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(PATIENCE_S)

    def stop(self, *names: str) -> None:
        """End processes (all, where none is named) as an operator does; each has to say that it went well."""
        ending = {name: self._processes.pop(name) for name in names or tuple(self._processes)}
        for process in ending.values():
            process.terminate()
        codes = {name: process.wait(PATIENCE_S) for name, process in ending.items()}
        assert not any(codes.values()), (codes, (self._home / "log").read_text()[-4_000:])
