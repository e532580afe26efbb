"""What every process shares: its name, its signals, its metrics port, the order in which it stops.

Order at SIGTERM or SIGINT: `stopping` is set; the role takes nothing new, finishes or hands over what is in
flight (its trades drain while their leases are still renewed), closes its connections and returns. A second
signal ends the process at once; what was in flight is then sent again by whoever takes over.
"""

import asyncio
import gc
import os
import signal
import socket
from collections.abc import Awaitable, Callable
from typing import Final

import uvloop
from msgspec import Struct

from broker.doctor.gate import refuse_unsafe_postgres, refuse_unsafe_postgres_in_time, refuse_unsafe_redis
from broker.settings import Settings
from broker.store.pool import Pool, open_pool
from broker.streams.clock import ServerClock
from broker.streams.connection import open_connection
from broker.streams.deployment import agree_on_shards
from broker.telemetry import logs, readiness
from broker.telemetry.exporter import serving_metrics
from schema.errors import BrokerError, StreamsUnavailable

GC_THRESHOLD: Final = 50_000
"""Container objects between young collections: the hot path makes few cycles (measured 1.1x)."""
RETRY_S: Final = 0.5
EXIT_FAILED: Final = 1


class Process(Struct, frozen=True):
    """The process a role runs in."""

    name: str
    settings: Settings
    stopping: asyncio.Event
    clock: ServerClock


Role = Callable[[Process], Awaitable[None]]


def run_role(role: str, settings: Settings, work: Role) -> int:
    """Run a role until it is told to stop; return the exit code."""
    name = settings.process_name or f"{role}-{socket.gethostname()}-{os.getpid()}"
    logs.configure(level=settings.log_level, format=settings.log_format, process=name)
    code = 0
    try:
        uvloop.run(_run(name, settings, work))
    except* BrokerError as group:
        logs.error("process.failed", error=group.exceptions[0])
        code = EXIT_FAILED
    return code


async def _run(name: str, settings: Settings, work: Role) -> None:
    stopping = asyncio.Event()
    _listen_for_signals(stopping)
    process = Process(name, settings, stopping, ServerClock())
    async with serving_metrics(settings.metrics_host, settings.metrics_port) as port:
        logs.event("process.serves_metrics", metrics_port=port)
        await _meet_redis(process)
        async with asyncio.TaskGroup() as group:
            meeting = await _meet_postgres(process, group)
            logs.event("process.started", metrics_port=port)
            gc.set_threshold(GC_THRESHOLD, 20, 100)
            await work(process)
            meeting.cancel()
    logs.event("process.stopped")


async def _meet_redis(process: Process) -> None:
    """Agree on the deployment's shape; waits for Redis as long as it takes. Raises: Conflict, Unsafe."""
    while not process.stopping.is_set():
        try:
            async with await open_connection(process.settings.redis_url, name=process.name) as connection:
                await refuse_unsafe_redis(connection, process.settings)
                await agree_on_shards(connection, process.settings.shards)
                await process.clock.measure(connection)
                readiness.has("redis")
                return
        except StreamsUnavailable as error:
            readiness.awaits("redis", error.message)
            logs.warning("process.waits_for_redis", reason=error.message)
            await asyncio.sleep(RETRY_S)


async def _meet_postgres(process: Process, group: asyncio.TaskGroup) -> asyncio.Task[None]:
    """See that what is committed stays. One that is away is waited for where it is needed, and judged by the
    task returned when it has come. Raises: Unsafe."""
    pool = await open_pool(process.settings.database_url, size=1, application_name=process.name)
    is_judged = await refuse_unsafe_postgres(pool)
    return group.create_task(_judge_later(pool, is_judged=is_judged))


async def _judge_later(pool: Pool, *, is_judged: bool) -> None:
    try:
        if not is_judged:
            await refuse_unsafe_postgres_in_time(pool)
    finally:
        await pool.aclose()


def _listen_for_signals(stopping: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()

    def stop(number: int) -> None:
        if stopping.is_set():
            logs.warning("process.stopped_at_once", signal=number)
            os._exit(128 + number)
        logs.event("process.stopping", signal=number)
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)


def freeze() -> None:
    """Take everything made so far out of the garbage collector's sight. Call it when start-up is over."""
    gc.collect()
    gc.freeze()
