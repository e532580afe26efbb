"""What a running `up` says about itself in its data directory, for the demo, the bench and people.

The file holds keys and is of mode 600. It is removed at a clean stop, so one that names a dead process was
left by a crash.
"""

import os
from pathlib import Path
from typing import Final

import msgspec

from broker.servers.process import write_private

FILE: Final = "running.json"


class Running(msgspec.Struct, kw_only=True, frozen=True):
    """Where everything is. `database_url` is for processes of the same user (a unix socket, where PostgreSQL
    is `up`'s own), `database_tcp_url` for any process of this machine."""

    pid: int
    api_url: str
    metrics_url: str
    api_key: str
    redis_url: str
    database_url: str
    database_tcp_url: str
    server_pids: dict[str, int]


def write_running(data_dir: Path, running: Running) -> None:
    """Keep the description, replacing an older one whole."""
    write_private(data_dir / FILE, msgspec.json.format(msgspec.json.encode(running)).decode())


def read_running(data_dir: Path) -> Running | None:
    """Return the description of the `up` that runs on this directory, None where none does."""
    try:
        running = msgspec.json.decode((data_dir / FILE).read_bytes(), type=Running)
        os.kill(running.pid, 0)
    except PermissionError:
        return None
    except (OSError, msgspec.MsgspecError):
        return None
    return running


def forget_running(data_dir: Path) -> None:
    """Remove the description."""
    (data_dir / FILE).unlink(missing_ok=True)
