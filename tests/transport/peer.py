"""A server that misbehaves on demand: each accepted connection is handed to the script of the test."""

import asyncio
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from broker.core.addresses import AddressPolicy
from broker.transport.client import (
    Answer,
    Deadlines,
    Failure,
    FailureKind,
    PushClient,
    Target,
    parse_endpoint,
)
from broker.transport.outcome import clock_ms

LOOPBACK = AddressPolicy(["127.0.0.0/8", "::1/128"])
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
PATIENT = Deadlines(total_ms=10_000, connect_ms=5_000, tls_ms=5_000, first_byte_ms=10_000)
HASTY = Deadlines(total_ms=300, connect_ms=300, tls_ms=300, first_byte_ms=300)


class Link:
    """One accepted connection, as the script sees it."""

    def __init__(self, peer: "Peer", reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.peer = peer
        self.reader = reader
        self.writer = writer
        self.number = peer.accepted

    async def request(self) -> bytes:
        """Read one whole request; its body is returned and the whole noted by the peer."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
        body = await self.reader.readexactly(length)
        self.peer.requests.append((head, body))
        return body

    async def write(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def drip(self, data: bytes) -> None:
        """Write byte by byte, each in a segment of its own as far as the kernel goes along."""
        for index in range(len(data)):
            await self.write(data[index : index + 1])
            await asyncio.sleep(0)

    def reset(self) -> None:
        """Close so that the other side sees a connection reset."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    async def until_closed(self) -> bytes:
        """Wait until the other side is gone; what it still sent is returned."""
        return await self.reader.read()


Script = Callable[[Link], Awaitable[None]]


class Peer:
    def __init__(self, script: Script) -> None:
        self.script = script
        self.accepted = 0
        self.closed = 0
        self.requests: list[tuple[bytes, bytes]] = []
        self.port = 0
        self.scheme = "http"
        self.changed = asyncio.Condition()
        self.links: set[asyncio.Task[None]] = set()

    def target(self, host: str = "127.0.0.1", path: str = "/hook") -> Target:
        return parse_endpoint(f"{self.scheme}://{host}:{self.port}{path}")

    async def until(self, true: Callable[["Peer"], bool]) -> None:
        async with asyncio.timeout(10), self.changed:
            await self.changed.wait_for(lambda: true(self))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.links.add(task)
        self.accepted += 1
        link = Link(self, reader, writer)
        async with self.changed:
            self.changed.notify_all()
        try:
            # What the client does to the connection is its good right; the tests look at its side.
            with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await self.script(link)
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        finally:
            writer.transport.abort()
            self.links.discard(task)
            self.closed += 1
            async with self.changed:
                self.changed.notify_all()


@asynccontextmanager
async def peer(
    script: Script, *, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1", port: int = 0
) -> AsyncIterator[Peer]:
    """Serve the script on a loopback port, an ephemeral one unless said."""
    it = Peer(script)
    server = await asyncio.start_server(it.serve, host, port, ssl=tls, backlog=512)
    it.port = server.sockets[0].getsockname()[1]
    it.scheme = "https" if tls else "http"
    try:
        yield it
    finally:
        server.close()
        for task in tuple(it.links):
            task.cancel()
        if it.links:
            await asyncio.wait(it.links)
        await server.wait_closed()


@asynccontextmanager
async def pushing(**options: object) -> AsyncIterator[PushClient]:
    """A client that may dial loopback, closed at the end; nothing may be left in flight or open."""
    client = PushClient(**{"policy": LOOPBACK, **options})  # type: ignore[arg-type]  # each test's own options
    try:
        yield client
    finally:
        await client.aclose()
        assert client.in_flight == 0
        assert client.connections == 0


def head_for(target: Target, body: bytes) -> bytes:
    fields = f"Host: {target.origin.authority}\r\nContent-Length: {len(body)}\r\n"
    return f"POST {target.path} HTTP/1.1\r\n{fields}\r\n".encode()


class Outcomes(list[Answer | Failure]):
    """Collects how posts with it as their subject ended; `first` resolves with the first."""

    def __init__(self) -> None:
        super().__init__()
        self.first: asyncio.Future[Answer | Failure] = asyncio.get_running_loop().create_future()
        self._began_ms = clock_ms()

    def note(self, outcome: Answer | Failure) -> None:
        self.append(outcome)
        if self.first.done():
            return
        if self._began_ms + outcome.duration_ms <= outcome.ended_ms <= clock_ms():
            self.first.set_result(outcome)
        else:
            self.first.set_exception(AssertionError(f"it did not end then: {outcome}"))


def post(
    client: PushClient, target: Target, body: bytes = b"{}", deadlines: Deadlines = PATIENT
) -> "asyncio.Future[Answer | Failure]":
    """Post and return a future of the outcome."""
    outcomes = Outcomes()
    client.post(target, head_for(target, body), body, deadlines, Outcomes.note, outcomes)
    assert not outcomes, "done was called from inside post"
    return outcomes.first


async def answer(client: PushClient, target: Target, body: bytes = b"{}") -> Answer:
    outcome = await post(client, target, body)
    assert isinstance(outcome, Answer), outcome
    return outcome


def kind_of(outcome: Answer | Failure) -> FailureKind | None:
    return outcome.kind if isinstance(outcome, Failure) else None
