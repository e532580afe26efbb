"""A proxy in front of a Redis, for what networks do to replies."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit, urlunsplit

import pytest
from cluster import is_cluster


class Proxy:
    """A TCP proxy in front of Redis. `hold_replies` keeps back what the server says until `let_go`;
    `cut` drops every connection; of `drops` further commands that hold `dropped` the connection is cut when
    their reply has come: they are done, and nobody is told."""

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._open = asyncio.Event()
        self._open.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.accepted = 0
        self.asked = bytearray()
        self.url = ""
        self.dropped = b"XADD"
        self.drops = 0

    def hold_replies(self) -> None:
        self._open.clear()

    def let_go(self) -> None:
        self._open.set()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.accepted += 1
        up_reader, up_writer = await asyncio.open_connection(self._host, self._port)
        self._writers |= {writer, up_writer}
        dropping = asyncio.Event()
        back = asyncio.get_running_loop().create_task(self._back(up_reader, writer, dropping))
        task = asyncio.current_task()
        assert task is not None
        self._tasks |= {back, task}
        try:
            with suppress(OSError):
                while data := await reader.read(65_536):
                    self.asked += data
                    if self.drops and self.dropped in data:
                        self.drops -= 1
                        dropping.set()
                    up_writer.write(data)
        except asyncio.CancelledError:
            pass
        finally:
            back.cancel()
            with suppress(asyncio.CancelledError, OSError):
                await back
            for one in (writer, up_writer):
                one.transport.abort()
            self._writers -= {writer, up_writer}
            self._tasks -= {back, task}

    async def _back(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, dropping: asyncio.Event
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                await self._open.wait()
                if dropping.is_set():
                    writer.transport.abort()
                    return
                writer.write(data)
            writer.close()


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[Proxy]:
    """Put a proxy in front of a Redis: of one server; nodes of a cluster are spoken to directly."""
    if is_cluster(url):
        pytest.skip("a proxy stands in front of one server")
    parts = urlsplit(url)
    proxy = Proxy(parts.hostname or "127.0.0.1", parts.port or 6379)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    login = parts.netloc.rpartition("@")
    proxy.url = urlunsplit(parts._replace(netloc=f"{login[0]}{login[1]}127.0.0.1:{port}"))
    try:
        yield proxy
    finally:
        server.close()
        tasks = tuple(proxy._tasks)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=5)
        await server.wait_closed()
