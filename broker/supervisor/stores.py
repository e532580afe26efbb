"""The stores under `up`: its own servers where no URL is set, watched and started again when they die."""

import asyncio
from collections.abc import Awaitable
from functools import partial
from pathlib import Path
from typing import Final

from broker.servers.postgres import EmbeddedPostgres
from broker.servers.process import ServerFailed
from broker.servers.valkey import EmbeddedValkey
from broker.settings import Settings
from broker.supervisor.child import BACKOFF_FIRST_S, BACKOFF_MAX_S, how_it_ended, pause
from broker.telemetry import logs, metrics

LOOK_S: Final = 0.2
"""How often a server is looked after: a dead store stops everything, so seconds would be too long."""
VALKEY_PORT: Final = 6390
POSTGRES_PORT: Final = 5490
"""First choices for a new data directory, beside and not on the usual ports."""

Server = EmbeddedValkey | EmbeddedPostgres


class Stores:
    """Valkey and PostgreSQL of one data directory, as far as they are ours to run."""

    def __init__(self, settings: Settings, data_dir: Path) -> None:
        self._settings = settings
        self._valkey = None if settings.redis_url else _valkey(settings, data_dir)
        self._postgres = None if settings.database_url else _postgres(data_dir)
        self._servers: dict[str, Server] = {}
        self._stopping = asyncio.Event()
        if self._valkey is not None:
            self._servers["valkey"] = self._valkey
        if self._postgres is not None:
            self._servers["postgres"] = self._postgres

    @property
    def redis_url(self) -> str:
        return self._valkey.url if self._valkey else self._settings.redis_url

    @property
    def redis_url_for_children(self) -> str:
        """The socket of our own Valkey: every command costs both ends less than over TCP."""
        return self._valkey.unix_url if self._valkey else self._settings.redis_url

    @property
    def database_url(self) -> str:
        return self._postgres.url if self._postgres else self._settings.database_url

    @property
    def database_tcp_url(self) -> str:
        return self._postgres.tcp_url if self._postgres else self._settings.database_url

    @property
    def pids(self) -> dict[str, int]:
        """Process ids of our own servers."""
        return {name: server.pid for name, server in self._servers.items()}

    async def start(self) -> None:
        """Start what is ours, side by side.

        Raises: ServerFailed.
        """
        results = await asyncio.gather(
            *(asyncio.to_thread(server.start) for server in self._servers.values()), return_exceptions=True
        )
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def watch(self) -> None:
        """Start again whatever dies, until `release`."""
        async with asyncio.TaskGroup() as group:
            for name, server in self._servers.items():
                group.create_task(_watch(name, server, self._stopping))

    def release(self) -> None:
        """Let `watch` end. Never cancelled: a start cut off half-way leaves a server nobody knows of."""
        self._stopping.set()

    async def stop(self, abrupt: asyncio.Event) -> None:
        """Stop PostgreSQL, then Valkey; a failure of one is logged and does not keep the other running."""
        if self._postgres is not None:
            stop = partial(self._postgres.stop, "immediate" if abrupt.is_set() else "fast")
            await _stopped("postgres", asyncio.to_thread(stop))
        if self._valkey is not None:
            await _stopped("valkey", asyncio.to_thread(self._valkey.stop))


async def _stopped(name: str, stop: Awaitable[None]) -> None:
    try:
        await stop
    except ServerFailed as error:
        logs.error("server.not_stopped", server=name, error=error)


async def _watch(name: str, server: Server, stopping: asyncio.Event) -> None:
    backoff_s = BACKOFF_FIRST_S
    while not stopping.is_set():
        code = server.exit_code()
        if code is None:
            backoff_s = BACKOFF_FIRST_S
            await pause(LOOK_S, unless=stopping)
            continue
        logs.error("server.ended", server=name, how=how_it_ended(code), restart_s=backoff_s)
        metrics.RESTARTS.child(child=name).inc()
        await pause(backoff_s, unless=stopping)
        backoff_s = min(backoff_s * 2, BACKOFF_MAX_S)
        if not stopping.is_set():
            await _restart(name, server)


async def _restart(name: str, server: Server) -> None:
    try:
        await asyncio.to_thread(server.start)
    except ServerFailed as error:
        logs.error("server.not_started", server=name, error=error)
    else:
        if not server.is_on_tcp:
            # The broker's own processes use the socket; others see it again after the next start.
            logs.warning("server.port_taken", server=name)


def _valkey(settings: Settings, data_dir: Path) -> EmbeddedValkey:
    return EmbeddedValkey(
        data_dir / "valkey",
        durability=settings.durability,
        maxmemory_bytes=settings.valkey_maxmemory_mb * 1024**2 or None,
        port=VALKEY_PORT,
    )


def _postgres(data_dir: Path) -> EmbeddedPostgres:
    return EmbeddedPostgres(data_dir / "postgres", port=POSTGRES_PORT)
