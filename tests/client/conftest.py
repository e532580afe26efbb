"""A whole broker, agents on it by name, and a line to it that can be cut."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from uuid import uuid4

import pytest
from whole_broker import WholeBroker

from broker.client import AgentClient
from broker.servers.running import Running


@pytest.fixture
def running(calm_broker: WholeBroker) -> Running:
    """Where the broker is."""
    return calm_broker.running


@pytest.fixture
async def operator(running: Running) -> AsyncIterator[AgentClient]:
    """The operator's client."""
    async with AgentClient(running.api_url, running.api_key, timeout_s=30) as client:
        yield client


@pytest.fixture
def mark() -> str:
    """Something no other test's names contain."""
    return uuid4().hex[:8]


class Line:
    """A TCP proxy to the broker. `cut` resets what runs over it; while it is `down` nobody gets through."""

    def __init__(self, port: int) -> None:
        self._there = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.down = False
        self.connections = 0
        self.url = ""

    async def open(self) -> None:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def cut(self) -> None:
        for writer in tuple(self._writers):
            writer.transport.abort()

    async def close(self) -> None:
        assert self._server is not None
        self._server.close()
        self.cut()
        await self._server.wait_closed()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self.down:
            writer.transport.abort()
            return
        self.connections += 1
        there, back = await asyncio.open_connection("127.0.0.1", self._there)
        self._writers |= {writer, back}
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(_pump(reader, back))
                both.create_task(_pump(there, writer))
        finally:
            self._writers -= {writer, back}


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
    with suppress(OSError):
        writer.close()
        await writer.wait_closed()


@pytest.fixture
async def line(running: Running) -> AsyncIterator[Line]:
    """A line to the broker that can be cut."""
    one = Line(int(running.api_url.rsplit(":", 1)[1]))
    await one.open()
    yield one
    await one.close()
