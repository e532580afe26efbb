"""A PostgreSQL that takes connections and says nothing: a proxy in front of a real one.

What a firewall that drops packets, a stopped process or a disk that hangs look like from outside: the worst
way of being away. Nothing fails, everything waits.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import parse_qs, urlsplit


class SilentPostgres:
    """The proxy. `fall_silent`: nothing passes in either direction any more, new connections are taken all
    the same; `speak`: what was held back passes, late."""

    def __init__(self, database_url: str) -> None:
        parts = urlsplit(database_url)
        query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
        self._socket = f"{query['host']}/.s.PGSQL.{query['port']}"
        self._user, self._database = parts.username, parts.path
        self._speaking = asyncio.Event()
        self._speaking.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""

    def fall_silent(self) -> None:
        self._speaking.clear()

    def speak(self) -> None:
        self._speaking.set()

    async def listen(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        self.url = f"postgresql://{self._user}@127.0.0.1:{port}{self._database}?sslmode=disable"
        return server

    async def end(self) -> None:
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=5)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        inner = None
        try:
            await self._speaking.wait()
            inner_reader, inner = await asyncio.open_unix_connection(self._socket)
            pumps = [
                asyncio.ensure_future(self._pump(reader, inner)),
                asyncio.ensure_future(self._pump(inner_reader, writer)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.wait(pumps)
        except (asyncio.CancelledError, OSError):
            pass
        finally:
            for one in (writer, inner):
                if one is not None:
                    one.transport.abort()
            self._tasks.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                await self._speaking.wait()
                writer.write(data)
                await writer.drain()


@asynccontextmanager
async def silenceable(database_url: str) -> AsyncIterator[SilentPostgres]:
    """Put the proxy in front of a database on a unix socket."""
    proxy = SilentPostgres(database_url)
    server = await proxy.listen()
    try:
        yield proxy
    finally:
        server.close()
        await proxy.end()
        await server.wait_closed()
