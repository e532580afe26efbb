"""A little HTTP receiver with scripted answers, which remembers all it got."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any


class Got:
    """One request."""

    def __init__(self, head: bytes, body: bytes) -> None:
        lines = head.decode("latin-1").split("\r\n")
        self.path = lines[0].split(" ")[1]
        self.headers = {
            name.lower(): value for name, _, value in (line.partition(": ") for line in lines[1:] if line)
        }
        self.body = body
        self.message: dict[str, Any] = json.loads(body)  # Any: an agent's own JSON
        self.id: str = self.message["id"]
        self.attempt = int(self.headers["x-attempt"])


Answer = int | tuple[int, bytes]
Script = Callable[[Got], Awaitable[Answer] | Answer]


class Receiver:
    """Answers as `script` says: a status, or a status and a body; `None` for the script means 200."""

    def __init__(self) -> None:
        self.script: Script | None = None
        self.got: list[Got] = []
        self.under_way = 0
        self.under_way_most = 0
        self.port = 0
        self._changed = asyncio.Condition()
        self._links: dict[asyncio.Task[None], int] = {}
        """What serves a connection, and the port of who has made it."""
        self._gate = asyncio.Event()
        self._gate.set()

    def url(self, path: str = "/hook") -> str:
        return f"http://127.0.0.1:{self.port}{path}"

    @property
    def ids(self) -> list[str]:
        return [got.id for got in self.got]

    @property
    def times(self) -> Counter[str]:
        return Counter(self.ids)

    def hold(self) -> None:
        """Answer nothing until `let_go`."""
        self._gate.clear()

    def let_go(self) -> None:
        self._gate.set()

    async def until(self, true: Callable[["Receiver"], bool], *, timeout_s: float = 15) -> None:
        async with asyncio.timeout(timeout_s), self._changed:
            await self._changed.wait_for(lambda: true(self))

    async def cut(self) -> None:
        """End every connection that was made so far, also those that nobody has accepted yet."""
        _, writer = await asyncio.open_connection("127.0.0.1", self.port)
        port = writer.get_extra_info("sockname")[1]
        # They are accepted in the order they were made, so this is the last.
        await self.until(lambda it: port in it._links.values())
        links = tuple(self._links)
        for link in links:
            link.cancel()
        await asyncio.wait(links)
        writer.close()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._links[task] = writer.get_extra_info("peername")[1]
        try:
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self._note()
                while True:
                    await self._serve_one(reader, writer)
        finally:
            writer.transport.abort()
            del self._links[task]

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        got = Got(head, await reader.readexactly(length))
        self.got.append(got)
        self.under_way += 1
        self.under_way_most = max(self.under_way_most, self.under_way)
        await self._note()
        try:
            await self._gate.wait()
            status, body = await self._answer(got)
        finally:
            self.under_way -= 1
        writer.write(
            b"HTTP/1.1 %d X\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (status, len(body), body)
        )
        await writer.drain()

    async def _answer(self, got: Got) -> tuple[int, bytes]:
        answer = 200 if self.script is None else self.script(got)
        if not isinstance(answer, (int, tuple)):
            answer = await answer
        return answer if isinstance(answer, tuple) else (answer, b"{}")

    async def _note(self) -> None:
        async with self._changed:
            self._changed.notify_all()


@asynccontextmanager
async def receiving() -> AsyncIterator[Receiver]:
    """Serve on an ephemeral loopback port."""
    it = Receiver()
    server = await asyncio.start_server(it.serve, "127.0.0.1", 0, backlog=512)
    it.port = server.sockets[0].getsockname()[1]
    try:
        yield it
    finally:
        server.close()
        for task in tuple(it._links):
            task.cancel()
        if it._links:
            await asyncio.wait(it._links)
        await server.wait_closed()
