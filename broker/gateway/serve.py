"""The gateway as a process: what it opens, in which order it stops, and how it is told to.

On SIGTERM or SIGINT readiness turns false, nobody waits for a rung any longer, no connection is accepted,
what is in flight is answered, and only then are the stores closed. A gateway starts while its stores are
away: it answers /healthz, says on /readyz what is missing, and serves as soon as they are there.
"""

import asyncio
import contextlib
import functools
import gc
import os
import signal
import socket
from collections.abc import AsyncIterator, Iterable, Iterator
from functools import partial
from typing import Final

import uvicorn
import uvloop
from msgspec import Struct

from broker.doctor.gate import (
    refuse_unsafe_access,
    refuse_unsafe_postgres,
    refuse_unsafe_postgres_in_time,
    refuse_unsafe_redis,
)
from broker.gateway.app import make_app, short_ways
from broker.gateway.openapi.document import document
from broker.gateway.operations import OPERATIONS
from broker.gateway.services import Services
from broker.gateway.wire import BoundedProtocol, SocketProtocol
from broker.settings import Settings
from broker.store.pool import open_pool
from broker.streams.deployment import agree_on_shards, check_signing
from broker.telemetry import logs, metrics
from broker.telemetry.exporter import serving_metrics
from broker.transport.policy import policy_of
from schema import limits
from schema.codec import encode
from schema.errors import BrokerError, Conflict, Unavailable
from schema.ids import new_id

POOL_CONNECTIONS: Final = 8
KEEP_ALIVE_S: Final = 75
"""Longer than the 60 s most load balancers keep idle connections: they must not send into a closed one."""
BACKLOG: Final = 2_048
JOIN_AGAIN_S: Final = 0.5
CANCEL_AGAIN_S: Final = 0.2
GC_THRESHOLD: Final = 50_000
"""Objects made before the collector looks at the young ones, as in the workers."""
TICK_S: Final = 0.1
TICKS_MAX: Final = 864_000
"""Ticks of uvicorn, which dates its replies by them, and after how many it counts anew."""
GRACE_S: Final = 2.0
"""Beyond the drain time-out, for closing what it cut off."""


class Running(Struct):
    """A gateway that listens."""

    host: str
    port: int
    services: Services
    stop: asyncio.Event
    """Set it to stop; it is also set when the gateway cannot go on."""

    @property
    def url(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"


def main(settings: Settings) -> int:
    """Serve until told to stop; return the exit code."""
    process = settings.process_name or f"gateway-{socket.gethostname()}-{os.getpid()}"
    logs.configure(level=settings.log_level, format=settings.log_format, process=process)
    exit_code = 0
    try:
        uvloop.run(_serve(settings))
    except* BrokerError as failures:
        logs.error("gateway.ended", reason="; ".join(str(failure) for failure in failures.exceptions))
        exit_code = 1
    return exit_code


async def _serve(settings: Settings) -> None:
    loop = asyncio.get_running_loop()
    async with (
        serving_metrics(settings.metrics_host, settings.metrics_port) as metrics_port,
        running(settings) as gateway,
    ):
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, gateway.stop.set)
        logs.event("gateway.started", url=gateway.url, metrics_port=metrics_port)
        _quiet_collector()
        await gateway.stop.wait()
    logs.event("gateway.stopped")


@contextlib.asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Running]:
    """Run a gateway while the context is open; leaving it drains.

    Raises: Conflict when the deployment has another number of shards; Unavailable when it cannot listen.
    """
    refuse_unsafe_access(settings)
    listener = _listener(settings.host, settings.port)
    pool = await open_pool(
        settings.database_url,
        size=POOL_CONNECTIONS,
        application_name="agent-broker gateway",
        secrets_keys=settings.secrets_keys,
    )
    policy = policy_of(settings.model_copy(update={"port": listener.getsockname()[1]}))
    services = Services(settings, pool, gateway_id=new_id(), policy=policy, contract=_contract())
    metrics.WAITERS.child().read = lambda: len(services.waiters)
    server = _server(services)
    host, port = listener.getsockname()[:2]
    gateway = Running(host=host, port=port, services=services, stop=asyncio.Event())
    try:
        async with asyncio.TaskGroup() as background:
            serving = background.create_task(server.serve(sockets=[listener]))
            others = [
                background.create_task(services.notices.run()),
                background.create_task(services.signs_of_life.run()),
                background.create_task(services.agents.run()),
                background.create_task(services.key_use.run()),
                background.create_task(services.contacts.run()),
                background.create_task(services.gatekeeper.run()),
                background.create_task(services.realtime.run()),
                background.create_task(_join(services)),
            ]
            try:
                yield gateway
            finally:
                await _drain(server, services, serving)
                await _cancel(others)
    finally:
        listener.close()
        await services.signs_of_life.write_down()
        await services.key_use.write_down()
        await services.close()
        await pool.aclose()


async def _drain(server: "_Server", services: Services, serving: "asyncio.Task[None]") -> None:
    """Stop accepting, answer what is in flight, end."""
    services.draining = True
    services.waiters.release_all()
    services.arrivals.release_all()
    await services.realtime.drain()  # While the server still sends: it closes sockets without a word of ours.
    server.end()
    # The server bounds its own drain; this is for a server that does not.
    await asyncio.wait((serving,), timeout=services.settings.drain_timeout_ms / 1000 + GRACE_S)
    if serving.cancelled() and server.started:
        # Something else ended the gateway and took the server's task along before it could close anything.
        await server.shutdown()


async def _cancel(tasks: Iterable["asyncio.Task[None]"]) -> None:
    """End tasks that run until cancelled.

    One cancellation may not do: redis-py loses one that comes at the very moment a reply does.
    """
    left = set(tasks)
    while left:
        for task in left:
            task.cancel()
        _, left = await asyncio.wait(left, timeout=CANCEL_AGAIN_S)


async def _join(services: Services) -> None:
    """Join the deployment as soon as Redis can be asked; judge a PostgreSQL that is away when it has come.

    Raises: Conflict where it has another number of shards, Unsafe where a store cannot keep the promises.
    """
    is_judged = False
    while not services.joined:
        try:
            connection = await services.link.get()
            await refuse_unsafe_redis(connection, services.settings)
            is_judged = await refuse_unsafe_postgres(services.pool)
            await agree_on_shards(connection, services.settings.shards)
            await check_signing(connection, signed=services.settings.require_signed_ingress)
            services.joined = True
        except Conflict:
            raise
        except Unavailable as error:
            logs.warning("gateway.waiting_for_redis", reason=error.message)
            await asyncio.sleep(JOIN_AGAIN_S)
    if not is_judged:
        await refuse_unsafe_postgres_in_time(services.pool)


def _quiet_collector() -> None:
    """Let the garbage collector look less often, and not at what stays: a request leaves few cycles behind,
    and the modules, routes and schemas are most of what there is to look at."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_THRESHOLD, 20, 100)


def _listener(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises: Unavailable, saying where it cannot listen."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(BACKLOG)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise Unavailable(f"cannot listen on {host}:{port}: {error.strerror}") from None
    listener.setblocking(False)
    return listener


@functools.cache
def _contract() -> bytes:
    """Return the OpenAPI document: 45 ms of work, the same for every gateway of a process."""
    return encode(document(OPERATIONS, version=metrics.installed_version()))


class _Server(uvicorn.Server):
    """Leaves signals to whoever runs the loop: several things drain here, in an order. Told to end, it does
    so at once, where uvicorn looks ten times a second."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._told_to_end = asyncio.Event()

    def end(self) -> None:
        """Accept nothing more, and end when what is in flight was answered."""
        self.should_exit = True
        self._told_to_end.set()

    async def main_loop(self) -> None:
        ticks = 0
        while not await self.on_tick(ticks):
            ticks = (ticks + 1) % TICKS_MAX
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TICK_S):
                    await self._told_to_end.wait()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _server(services: Services) -> _Server:
    config = uvicorn.Config(
        make_app(services, OPERATIONS),
        interface="asgi3",
        loop="none",
        # A factory where uvicorn's types want a class; it is only called.
        http=partial(  # type: ignore[arg-type]
            BoundedProtocol,
            ways=short_ways(services, OPERATIONS),
            connections_max=services.settings.http_connections_max,
        ),
        ws=SocketProtocol,
        ws_max_size=limits.FRAME_BYTES_MAX,
        ws_ping_interval=limits.SOCKET_PING_S,
        ws_ping_timeout=limits.SOCKET_PING_S,
        ws_per_message_deflate=False,  # costs each socket more memory than all the rest of it
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=max(1, services.settings.drain_timeout_ms // 1000),
    )
    return _Server(config)
