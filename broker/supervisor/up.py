"""`agent-broker up`: stores, migrations, processes, one metrics port, and one order in which all of it stops.

Order of a stop (SIGINT, SIGTERM, SIGHUP): gateway, workers, recorder, keeper, PostgreSQL, Valkey, so that
nobody loses a store it still writes to. A second signal, or a stop that takes too long, kills what is left
of the processes; the stores still stop by themselves, so that nothing accepted is lost.
"""

import asyncio
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from broker.doctor.gate import refuse_unsafe_access, refuse_unsafe_stores
from broker.servers.process import ServerFailed, choose_port, is_free
from broker.servers.running import Running, forget_running, write_running
from broker.settings import EXIT_CODE_FAULTY, Settings
from broker.supervisor.child import ChildMisconfigured
from broker.supervisor.data_directory import DataDirectory, DirectoryInUse
from broker.supervisor.lifeline import Lifeline
from broker.supervisor.plan import (
    OPERATOR_KEY_FILE,
    MakeStages,
    Plan,
    Stages,
    broker_stages,
    environment_for_children,
)
from broker.supervisor.readiness import wait_until_ready
from broker.supervisor.stores import Stores
from broker.telemetry import exporter, gathering, logs, metrics
from schema.errors import BrokerError, Unavailable

EXIT_CODE_FAILED: Final = 1
EXIT_CODE_IN_USE: Final = 3
STOP_S_MAX: Final = 60.0
"""After this a stop becomes abrupt by itself."""
SECOND_SIGNAL_S: Final = 1.0
"""One Ctrl-C can arrive twice: from the terminal, and from `make` or `timeout`, which pass it on."""
MIGRATE_S: Final = 60.0
"""How long a database that is set by URL may take to come up."""
MIGRATE_RETRY_S: Final = 0.5
SLOW_START_S: Final = 30.0
SEALED_TOLD_MAX: Final = 20
ORPHANS_GRACE_S: Final = 8.0

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Up:
    """One run of `up`. `stages` makes the processes; tests give their own."""

    def __init__(self, settings: Settings, *, stages: MakeStages = broker_stages) -> None:
        self._settings = settings
        self._make_stages = stages
        self._stop = asyncio.Event()
        self._abrupt = asyncio.Event()
        self._started = time.monotonic()
        self._asked_to_stop = 0.0

    async def run(self) -> int:
        """Run until a signal; return the exit code."""
        loop = asyncio.get_running_loop()
        for signum in _SIGNALS:
            loop.add_signal_handler(signum, self._on_signal)
        try:
            with DataDirectory(Path(self._settings.data_dir)) as directory, Lifeline() as lifeline:
                return await self._run_in(directory, lifeline)
        except DirectoryInUse as error:
            return _failed(error, EXIT_CODE_IN_USE)
        except BrokerError as error:
            return _failed(error, EXIT_CODE_FAILED)
        finally:
            for signum in _SIGNALS:
                # An impatient Ctrl-C in the last moment must not turn a clean stop into a failure.
                loop.remove_signal_handler(signum)
                signal.signal(signum, signal.SIG_IGN)

    async def _run_in(self, directory: DataDirectory, lifeline: Lifeline) -> int:
        patience_s = self._settings.drain_timeout_ms / 1000 + ORPHANS_GRACE_S
        if await asyncio.to_thread(directory.wait_for_orphans, patience_s):
            logs.warning("supervisor.orphans_ended", data_dir=str(directory.path))
        self._settings = _with_port(self._settings)
        stores = Stores(self._settings, directory.path)
        try:
            if self._settings.agent_api_key:  # One that `up` makes is good.
                refuse_unsafe_access(self._settings)
            await stores.start()
            examined = self._settings.model_copy(
                update={"redis_url": stores.redis_url, "database_url": stores.database_url}
            )
            # Before the migrations, which a read-only database would refuse in words of its own, and after
            # them, for a database that was not there yet.
            await refuse_unsafe_stores(examined)
            await _migrate(stores.database_url, self._stop)
            if self._stop.is_set():
                return 0
            await refuse_unsafe_stores(examined)
            return await self._run_children(directory, lifeline, stores)
        finally:
            # Shielded by order: nothing cancels this task; signals only set events.
            forget_running(directory.path)
            await stores.stop(self._abrupt)

    async def _run_children(self, directory: DataDirectory, lifeline: Lifeline, stores: Stores) -> int:
        environment = environment_for_children(self._settings, stores, directory.path)
        await _seal(stores.database_url, environment["SECRETS_KEY"])
        plan = Plan(self._settings, directory, lifeline, environment)
        stages = self._make_stages(plan, self._settings)
        host, port = self._settings.metrics_host, self._settings.metrics_port
        code = 0
        async with exporter.serving_metrics(host, port, _Gathered(plan)) as metrics_port:
            running = self._running(environment["AGENT_API_KEY"], stores, metrics_port)
            try:
                async with asyncio.TaskGroup() as group:
                    for child in (child for stage in stages for child in stage):
                        group.create_task(child.run())
                    group.create_task(stores.watch())
                    announcing = group.create_task(self._announce(directory.path, running))
                    group.create_task(self._stop_in_order(stages, stores, announcing))
            except* ChildMisconfigured as group_error:
                await _stop_all(stages, self._abrupt)
                code = _failed(group_error.exceptions[0], EXIT_CODE_FAULTY)
        return code

    async def _stop_in_order(self, stages: Stages, stores: Stores, announcing: asyncio.Task[None]) -> None:
        await self._stop.wait()
        announcing.cancel()
        logs.event("supervisor.stopping")
        hurry = asyncio.get_running_loop().call_later(STOP_S_MAX, self._abrupt.set)
        await _stop_all(stages, self._abrupt)
        hurry.cancel()
        stores.release()

    async def _announce(self, data_dir: Path, running: Running) -> None:
        """Print the ready line when the gateway is ready; say what is going on when that takes long."""
        host = _reachable(self._settings.host)
        waiting = asyncio.ensure_future(wait_until_ready(host, self._settings.port))
        try:
            while not (await asyncio.wait((waiting,), timeout=SLOW_START_S))[0]:
                logs.warning("supervisor.not_ready_yet", seconds=round(time.monotonic() - self._started))
        finally:
            waiting.cancel()
        write_running(data_dir, running)
        self._say_ready(data_dir, running)

    def _say_ready(self, data_dir: Path, running: Running) -> None:
        settings = self._settings
        if settings.agent_api_key:
            key = "operator key from AGENT_API_KEY"
        elif sys.stdout.isatty():
            key = f"operator key {running.api_key} (kept in {data_dir / OPERATOR_KEY_FILE})"
        else:
            # Nobody is looking: this goes into somebody's log, where keys do not belong.
            key = f"operator key in {data_dir / OPERATOR_KEY_FILE}"
        allowed = (
            "" if settings.endpoint_allow_cidrs else "Endpoints on this machine (loopback) are allowed.\n"
        )
        seconds = time.monotonic() - self._started
        sys.stdout.write(
            f"{self._own_stores(running)}{allowed}"
            f"Ready after {seconds:.1f} s: {running.api_url} (docs {running.api_url}/docs, "
            f"metrics {running.metrics_url}), {key}\n"
        )
        sys.stdout.flush()

    def _own_stores(self, running: Running) -> str:
        """Return lines with the addresses of our own stores, with their passwords where somebody is looking;
        others' passwords are not ours to show."""
        shown: Callable[[str], str] = str if sys.stdout.isatty() else logs.without_secrets
        streams = "" if self._settings.redis_url else f"Streams  {shown(running.redis_url)}\n"
        record = "" if self._settings.database_url else f"Record   {shown(running.database_tcp_url)}\n"
        return streams + record

    def _running(self, key: str, stores: Stores, metrics_port: int) -> Running:
        settings = self._settings
        return Running(
            pid=os.getpid(),
            api_url=f"http://{_in_url(_reachable(settings.host))}:{settings.port}",
            metrics_url=f"http://{_in_url(_reachable(settings.metrics_host))}:{metrics_port}/metrics",
            api_key=key,
            redis_url=stores.redis_url,
            database_url=stores.database_url,
            database_tcp_url=stores.database_tcp_url,
            server_pids=stores.pids,
        )

    def _on_signal(self) -> None:
        now = time.monotonic()
        if not self._stop.is_set():
            self._asked_to_stop = now
            self._stop.set()
        elif now - self._asked_to_stop > SECOND_SIGNAL_S:
            self._abrupt.set()


class _Gathered:
    """Renders the page of all processes."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    async def __call__(self) -> bytes:
        ports = dict(self._plan.metrics_ports)
        pages = await asyncio.gather(*(gathering.scrape("127.0.0.1", port) for port in ports.values()))
        found = {name: page for name, page in zip(ports, pages, strict=True) if page is not None}
        return gathering.merge({**found, "supervisor": metrics.render()})


async def _stop_all(stages: Stages, abrupt: asyncio.Event) -> None:
    for stage in stages:
        await asyncio.gather(*(child.stop(abrupt) for child in stage))


async def _migrate(database_url: str, stop: asyncio.Event) -> None:
    from broker.store.migrate import migrate

    deadline = time.monotonic() + MIGRATE_S
    while not stop.is_set():
        try:
            applied = await migrate(database_url)
        except Unavailable as error:
            if time.monotonic() > deadline:
                raise
            logs.warning("supervisor.database_not_ready", error=error)
            await asyncio.sleep(MIGRATE_RETRY_S)
        else:
            for name in applied:
                logs.event("supervisor.migrated", migration=name)
            return


async def _seal(database_url: str, keys: str) -> None:
    """Encrypt what an older release, or an older key, has left; what cannot be is told and waits."""
    from broker.store.pool import open_pool
    from broker.store.sealing import seal_all

    pool = await open_pool(
        database_url, size=1, application_name="agent-broker up", secrets_keys=tuple(keys.split(","))
    )
    try:
        done = await seal_all(pool)
    except BrokerError as error:
        logs.warning("supervisor.secrets_not_sealed", reason=error.message)
    else:
        if done.agents:
            logs.event("supervisor.secrets_sealed", agents=done.agents)
        if done.unreadable:
            logs.error("supervisor.secrets_unreadable", agents=done.unreadable[:SEALED_TOLD_MAX])
    finally:
        await pool.aclose()


def _with_port(settings: Settings) -> Settings:
    """Return the settings with a free port in place of 0, having seen that the gateway's is free.

    Raises: ServerFailed, naming the port, before anything was started.
    """
    port = settings.port or choose_port(0)
    if not is_free(settings.host, port):
        raise ServerFailed(
            f"cannot listen on {settings.host} port {port}: taken, or no address of this machine; "
            "choose others with --host and --port"
        )
    return settings.model_copy(update={"port": port})


def _reachable(host: str) -> str:
    """Return an address by which this machine reaches a listener on `host`."""
    return {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # noqa: S104  # compared, not bound


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _failed(error: BaseException, code: int) -> int:
    sys.stderr.write(f"agent-broker: {error}\n")
    return code


def main(settings: Settings) -> int:
    """Run `up` to its end and return the exit code."""
    logs.configure(level=settings.log_level, format=settings.log_format, process="supervisor")
    return asyncio.run(Up(settings).run())
