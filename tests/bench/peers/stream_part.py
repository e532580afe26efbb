"""The stream alone: publish, read through a group, acknowledge. NATS JetStream beside Redis streams.

One publisher and one consumer process each, both going at once, from the first publish to the last
acknowledgement. JetStream is run twice: synced after every message, and as it comes (every two minutes).
"""

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit, urlunsplit

from msgspec import Struct, field
from redis.asyncio import Redis

from bench.kit.broker import CpuMeter
from bench.peers import install
from bench.peers.team import Agents, Publish, Published, background, obedient, tail
from broker.bench.commits import Stuck
from broker.bench.control import Nothing
from broker.bench.figures import per_second
from broker.bench.subject import Subject
from broker.servers.process import choose_port

HERE: Final = Path(__file__).parent
REDIS_DATABASE: Final = 2
READY_S: Final = 20.0
LOOK_S: Final = 0.05
DEADLINE_S: Final = 45.0
CONFIG: Final = """\
host: 127.0.0.1
port: {port}
jetstream {{ store_dir: "{store}", max_mem: 256MB, max_file: 4GB{sync} }}
"""
STRICT: Final = ", sync_interval: always"
"""Every write is on disk before it is acknowledged, as with `appendfsync always`."""


class Order(Struct):
    """Order to a consumer: answer when so many are acknowledged."""

    count: int


class StreamRun(Struct):
    """Rates of one run, and CPU us per message of the server, the publisher and the consumer."""

    published_per_second: float
    acknowledged_per_second: float
    cpu_us: dict[str, float]


class Stream(Struct, frozen=True):
    """A stream to measure: where its scripts are and who runs them, the server's address and processes."""

    title: str
    python: str
    home: Path
    env: dict[str, str]
    roots: list[int] = field(default_factory=list)
    server: int = 0


@asynccontextmanager
async def open_streams(subject: Subject, *, home: Path, log: Path) -> AsyncIterator[list[Stream]]:
    """Start the NATS servers, find the Redis one. Raises: install.Missing."""
    programs = await install.python("nats")
    redis_url = urlunsplit(urlsplit(subject.redis_url)._replace(path=f"/{REDIS_DATABASE}"))
    async with AsyncExitStack() as stack:
        streams = [
            Stream(
                "Redis streams, appendfsync always, redis-py",
                sys.executable,
                HERE / "streams",
                {"REDIS_URL": redis_url},
                roots=subject.roots,
            )
        ]
        for title, sync in (("always", STRICT), ("2m, as it comes", "")):
            server = _server(programs / "nats-server", home / f"nats-{len(streams)}", sync=sync, log=log)
            url, pid = await stack.enter_async_context(server)
            title = f"NATS JetStream, sync_interval {title}, nats-py"
            python = str(programs / "python")
            streams.append(Stream(title, python, HERE / "nats", {"NATS_URL": url}, server=pid))
        try:
            yield streams
        finally:
            async with Redis.from_url(redis_url) as redis:
                await redis.flushdb()


async def run(stream: Stream, *, count: int, ids: list[str], log: Path) -> StreamRun:
    """Publish, read and acknowledge so many, after a tenth to warm up. Raises: ChildFailed, Stuck."""
    publish, consume = [stream.python, "publish.py"], [stream.python, "consume.py"]
    async with (
        obedient(consume, home=stream.home, env=stream.env, log=log) as (consumer, consumer_pid),
        obedient(publish, home=stream.home, env=stream.env, log=log) as (publisher, publisher_pid),
    ):
        await publisher.ask(Agents(ids), Nothing)
        labels = {publisher_pid: "publisher", consumer_pid: "consumer"}
        cpu = CpuMeter(stream.roots, labels | ({stream.server: "server"} if stream.server else {}))
        try:
            async with asyncio.timeout(DEADLINE_S):
                for wanted in (max(count // 10, 1), count):
                    cpu.start()
                    sent, taken = await asyncio.gather(
                        publisher.ask(Publish(wanted), Published), consumer.ask(Order(wanted), Published)
                    )
        except TimeoutError:
            raise Stuck(f"{stream.title} stood still: {tail(log)}") from None
        used = cpu.per(count)
    return StreamRun(
        published_per_second=per_second(count, sent.last_ns - sent.first_ns),
        acknowledged_per_second=per_second(count, taken.last_ns - sent.first_ns),
        cpu_us={
            "server": used.get("server", 0.0) or used.get("valkey", 0.0),
            "publisher": used.get("publisher", 0.0),
            "consumer": used.get("consumer", 0.0),
        },
    )


@asynccontextmanager
async def _server(program: Path, home: Path, *, sync: str, log: Path) -> AsyncIterator[tuple[str, int]]:
    """Run a NATS server on an empty directory; yield its address and pid."""
    port = choose_port(0)
    command = [str(program), "--config", str(_configure(home, port=port, sync=sync))]
    async with background(command, home=home, env={}, log=log) as pid:
        for _ in range(int(READY_S / LOOK_S)):
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
            except OSError:
                await asyncio.sleep(LOOK_S)  # another process cannot set our events
        else:
            raise install.Missing(f"nats-server did not get ready: {tail(log)}")
        yield f"nats://127.0.0.1:{port}", pid


def _configure(home: Path, *, port: int, sync: str) -> Path:
    home.mkdir()
    config = home / "nats.conf"
    config.write_text(CONFIG.format(port=port, store=home / "store", sync=sync))
    return config
