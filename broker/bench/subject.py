"""What is measured: a broker that runs already, or a fresh one that is started here and ended afterwards."""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Final

from msgspec import Struct

from broker.servers.running import Running, read_running
from broker.settings import load
from schema.errors import Unavailable

START_S: Final = 90.0
"""A first start makes a Postgres cluster; on a slow disk that takes most of a minute."""
STOP_S: Final = 60.0
STOP: Final = (signal.SIGTERM, signal.SIGTERM, signal.SIGKILL)
"""Asked to stop, `up` stops everything in order; a second signal cuts that short."""
LOOK_S: Final = 0.1
LOG_TAIL_BYTES: Final = 4_000
ERRORS_MAX: Final = 3
ERROR_CHARS: Final = 400


class Subject(Struct, kw_only=True):
    """Where a broker is and which processes it consists of, as the roots of their trees."""

    api_url: str
    api_key: str
    redis_url: str
    database_url: str
    roots: list[int]


def running(*, url: str, data_dir: Path | None) -> Subject:
    """Return the broker that the environment names, or else the one that `up` runs on the data directory.

    Raises: Unavailable.
    """
    settings = load()
    found = read_running(data_dir or Path(settings.data_dir))
    if settings.redis_url and settings.database_url:
        return Subject(
            api_url=url or f"http://{settings.host}:{settings.port}",
            api_key=settings.agent_api_key,
            redis_url=settings.redis_url,
            database_url=settings.database_url,
            roots=_roots(found) if found is not None and found.redis_url == settings.redis_url else [],
        )
    if found is None:
        raise Unavailable(
            f"no broker runs on {data_dir or settings.data_dir}: start one with `agent-broker up`, "
            "name one by REDIS_URL and DATABASE_URL, or measure a new one with --fresh"
        )
    return _subject(found)


@asynccontextmanager
async def fresh(env: Mapping[str, str] = MappingProxyType({})) -> AsyncIterator[Subject]:
    """Start `up` on an empty directory with durable servers of its own; stop it and remove the directory.

    `env` are further settings of the broker, on top of this process's environment.
    Raises: Unavailable, quoting the log, when it does not get ready.
    """
    home = Path(tempfile.mkdtemp(prefix="agent-broker-bench-"))
    try:
        with (home / "up.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "broker.cli", "up", "--port", "0", "--metrics-port", "0"),
                *("--data-dir", str(home / "data")),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=_environment(env),
                start_new_session=True,  # Ctrl-C reaches the driver, which then stops it in order
            )
        try:
            yield _subject(await _ready(process, home))
        except Exception as error:
            # Whatever stood still over there, the reason is in a log that is about to be removed.
            error.add_note(_errors(home))
            raise
        finally:
            await stop_process(process, STOP, patience_s=STOP_S)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _environment(env: Mapping[str, str]) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if name not in ("REDIS_URL", "DATABASE_URL")}
    return {**own, "DURABILITY": "always", **env}


async def _ready(process: asyncio.subprocess.Process, home: Path) -> Running:
    try:
        async with asyncio.timeout(START_S):
            while process.returncode is None:
                found = read_running(home / "data")
                if found is not None:
                    return found
                await asyncio.sleep(LOOK_S)  # another process cannot set our events
    except TimeoutError:
        pass
    tail = (home / "up.log").read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")
    raise Unavailable(f"the broker did not get ready:\n{tail}")


def _errors(home: Path) -> str:
    """Return the last errors that the broker's processes logged, cut short; nothing where there is none."""
    lines = (home / "up.log").read_text(errors="replace").splitlines()
    found = [line[:ERROR_CHARS] for line in lines if '"level":"error"' in line]
    return "\n".join(found[-ERRORS_MAX:])


async def stop_process(
    process: asyncio.subprocess.Process, signals: Iterable[signal.Signals], *, patience_s: float
) -> None:
    """Send one signal after the other until the process has ended, with so much patience for each."""
    for signum in signals:
        if process.returncode is not None:
            return
        process.send_signal(signum)
        try:
            async with asyncio.timeout(patience_s):
                await process.wait()
        except TimeoutError:
            continue


def _subject(found: Running) -> Subject:
    return Subject(
        api_url=found.api_url,
        api_key=found.api_key,
        redis_url=found.redis_url,
        database_url=found.database_url,
        roots=_roots(found),
    )


def _roots(found: Running) -> list[int]:
    return [found.pid, *found.server_pids.values()]
