"""A broker to measure, on empty durable servers of its own, and what its processes cost.

`fresh_broker` is `agent-broker up`; where more gateways or recorders are asked for than `up` starts, they run
beside it as on other machines: by their role's command, on the same stores.
"""

import asyncio
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Final

import httpx

from broker.bench.processes import read_table, roles_below, seconds_by_role
from broker.bench.subject import Subject, fresh, stop_process
from broker.servers.process import choose_port
from schema.errors import Unavailable

READY_S: Final = 30.0
LOOK_S: Final = 0.05
STOP_S: Final = 30.0
NOTHING: Final[Mapping[str, str]] = MappingProxyType({})


class Broker(Subject, kw_only=True):
    """A subject whose gateways are all known, and the settings every process of it has to share."""

    api_urls: list[str]
    settings: dict[str, str]


@asynccontextmanager
async def fresh_broker(
    *, workers: int = 1, gateways: int = 1, recorders: int = 1, env: Mapping[str, str] = NOTHING
) -> AsyncIterator[Broker]:
    """Start a broker with so many processes of each kind; end all of it and remove its data.

    Raises: Unavailable.
    """
    shared = {"KEY_PEPPER": secrets.token_hex(32), "PYTHONPATH": _python_path(), **env}
    async with AsyncExitStack() as stack:
        subject = await stack.enter_async_context(fresh({**shared, "MESSAGE_QUEUE_WORKERS": str(workers)}))
        broker = Broker(
            api_url=subject.api_url,
            api_key=subject.api_key,
            redis_url=subject.redis_url,
            database_url=subject.database_url,
            roots=subject.roots,
            api_urls=[subject.api_url],
            settings=shared,
        )
        for _ in range(gateways - 1):
            await stack.enter_async_context(another_gateway(broker))
        for number in range(recorders - 1):
            await stack.enter_async_context(another(broker, "recorder", name=f"recorder-{number + 2}"))
        yield broker


@asynccontextmanager
async def another_gateway(broker: Broker) -> AsyncIterator[int]:
    """Run one more gateway and wait until it is ready; its address is added to `api_urls`. Yields its pid."""
    port = choose_port(0)
    url = f"http://127.0.0.1:{port}"
    name = f"gateway-{len(broker.api_urls) + 1}"
    async with another(broker, "gateway", "--port", str(port), name=name) as pid:
        await _ready(url)
        broker.api_urls.append(url)
        try:
            yield pid
        finally:
            broker.api_urls.remove(url)


@asynccontextmanager
async def another(broker: Broker, role: str, *arguments: str, name: str) -> AsyncIterator[int]:
    """Run one more process of a role, by its command, beside the broker; yield its pid, end it afterwards.

    `name` is its PROCESS_NAME and must be nobody else's. It is among `roots` while it runs.
    """
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "broker.cli", role, *arguments),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,  # the log, a line a delivery; `up` keeps its own out of sight too
        env={**os.environ, **_settings(broker), "PROCESS_NAME": f"{name}.bench"},
        start_new_session=True,  # Ctrl-C reaches the driver, which then stops it in order
    )
    broker.roots.append(process.pid)
    try:
        yield process.pid
    finally:
        broker.roots.remove(process.pid)
        await stop_process(process, (signal.SIGTERM, signal.SIGKILL), patience_s=STOP_S)


class CpuMeter:
    """CPU that processes use between `start` and `per`, by the part they play.

    `roots` are the tops of process trees (kept as the list it is: what joins it later is counted from then
    on); `labels` names processes outside of them, each counted with its children.
    """

    def __init__(self, roots: Iterable[int], labels: Mapping[int, str] = MappingProxyType({})) -> None:
        self._roots = roots
        self._labels = labels
        self._before: dict[str, float] = {}

    def start(self) -> None:
        """Count from now on."""
        self._before = self._seconds()

    def seconds(self) -> dict[str, float]:
        """Return the CPU seconds of every part since `start`."""
        now = self._seconds()
        return {part: now[part] - self._before.get(part, 0.0) for part in now}

    def per(self, count: int) -> dict[str, float]:
        """Return the microseconds of every part for each of so many messages, dearest first."""
        used = {part: seconds * 1e6 / max(count, 1) for part, seconds in self.seconds().items()}
        return dict(sorted(((part, us) for part, us in used.items() if us > 0), key=lambda item: -item[1]))

    def _seconds(self) -> dict[str, float]:
        table = read_table()
        parts: dict[int, str] = {}
        for root in self._roots:
            parts |= roles_below(table, root)
        for pid, label in self._labels.items():
            parts |= dict.fromkeys(roles_below(table, pid), label)
        return seconds_by_role(table, parts)


def _python_path() -> str:
    """Return this process's PYTHONPATH without the directory this package lies in: the tests have a
    `workers` there, which the broker would find before its own."""
    tests = Path(__file__).resolve().parents[2]
    kept = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    return os.pathsep.join(part for part in kept if Path(part).resolve() != tests)


def _settings(broker: Broker) -> dict[str, str]:
    return {
        "DURABILITY": "always",
        "ENDPOINT_ALLOW_CIDRS": "127.0.0.0/8,::1/128",
        "METRICS_PORT": "0",
        **broker.settings,
        "REDIS_URL": broker.redis_url,
        "DATABASE_URL": broker.database_url,
        "AGENT_API_KEY": broker.api_key,
    }


async def _ready(url: str) -> None:
    async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
        for _ in range(int(READY_S / LOOK_S)):
            try:
                if (await client.get("/readyz")).status_code == httpx.codes.OK:
                    return
            except httpx.TransportError:
                pass
            await asyncio.sleep(LOOK_S)  # another process cannot set our events
    raise Unavailable(f"the gateway on {url} did not get ready")
