"""A TCP proxy between every pair of processes: slow, cut, silent or reset, as it is told.

    python -m chaos.proxy '[{"name": "worker-1>redis", "host": "127.0.0.1", "port": 6390}, ...]'

Prints one JSON line: the port of each link. Then it takes commands, a JSON line each, on its standard input,
and ends when that does:
    {"link": ..., "latency_s": 0.1}      every byte is this late, both ways
    {"link": ..., "frozen": true}        a black hole: nothing passes; who connects waits
    {"link": ..., "cut_after": 1000}     every connection is reset after so many bytes more
    {"link": ..., "reset": true}         every connection is reset now
    {"link": ...}                        well again; what was frozen flows on
"""

import asyncio
import os
import socket
import struct
import sys
from collections import deque
from typing import Any, Final, cast

import msgspec
import uvloop

from chaos.dying import die_with_parent

LINGER_ZERO: Final = struct.pack("ii", 1, 0)
BUFFERED_BYTES_MAX: Final = 1024 * 1024


class Link:
    """One pair: where it leads, what is wrong with it, and its connections."""

    def __init__(self, name: str, host: str, port: int) -> None:
        self.name = name
        self.target = host, port
        self.latency_s = 0.0
        self.frozen = False
        self.cut_after: int | None = None
        self.connections: set[_Connection] = set()
        self.opened = 0
        self.bytes = 0

    def obey(self, command: dict[str, Any]) -> None:  # Any: JSON
        """Take a command: what it does not name is well."""
        self.latency_s = command.get("latency_s", 0.0)
        self.frozen = command.get("frozen", False)
        self.cut_after = command.get("cut_after")
        for connection in tuple(self.connections):
            connection.left = self.cut_after
            if command.get("reset"):
                connection.reset()
            else:
                connection.flow()


class _Connection:
    """Two sockets with a queue each way."""

    def __init__(self, link: Link) -> None:
        self.link = link
        self.left = link.cut_after
        self.near = _End(self)
        self.far = _End(self)
        self.near.other, self.far.other = self.far, self.near
        link.connections.add(self)
        link.opened += 1

    def flow(self) -> None:
        for end in (self.near, self.far):
            end.flow()

    def count(self, size: int) -> bool:
        """Count bytes; False when the connection ends with them."""
        self.link.bytes += size
        if self.left is None:
            return True
        self.left -= size
        if self.left > 0:
            return True
        self.reset()
        return False

    def reset(self) -> None:
        """End both sides with a RST, whatever is still on its way."""
        for end in (self.near, self.far):
            end.reset()

    def forget(self) -> None:
        self.link.connections.discard(self)


class _End(asyncio.Protocol):
    """One of the two sockets; what it receives the other sends."""

    other: "_End"

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._queue: deque[tuple[float, bytes]] = deque()
        """What is to be sent here, and not before when."""
        self._queued_bytes = 0
        self._ended = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # cast: uvloop's transports have the interface but not the base class.
        self._transport = cast(asyncio.Transport, transport)
        self.flow()

    def data_received(self, data: bytes) -> None:
        if self._connection.count(len(data)):
            self.other.queue(data)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connection.forget()
        self.other.finish()

    def queue(self, data: bytes) -> None:
        """Send bytes when their time has come; they never overtake others."""
        due_s = self._loop.time() + self._connection.link.latency_s
        if self._queue:
            due_s = max(due_s, self._queue[-1][0])
        self._queue.append((due_s, data))
        self._queued_bytes += len(data)
        self.flow()

    def flow(self) -> None:
        """Send what is due, unless the link is frozen."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._transport is not None and self._transport.is_closing():
            return  # Closed already, though it has not been said yet.
        if self._transport is None or self._connection.link.frozen:
            self._hold_back(is_full=self._connection.link.frozen)
            return
        now_s = self._loop.time()
        while self._queue and self._queue[0][0] <= now_s:
            _, data = self._queue.popleft()
            self._queued_bytes -= len(data)
            self._transport.write(data)
        self._hold_back(is_full=self._queued_bytes > BUFFERED_BYTES_MAX)
        if self._queue:
            self._timer = self._loop.call_at(self._queue[0][0], self.flow)
        elif self._ended:
            self._transport.close()

    def finish(self) -> None:
        """Close when everything is sent: the other side has."""
        self._ended = True
        self.flow()

    def reset(self) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        plug = transport.get_extra_info("socket")
        if plug is not None and plug.family in (socket.AF_INET, socket.AF_INET6):
            plug.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_ZERO)
        self._queue.clear()
        transport.abort()

    def _hold_back(self, *, is_full: bool) -> None:
        """Stop reading from the other side while this one cannot send."""
        source = self.other._transport
        if source is None or source.is_closing():
            return
        if is_full and source.is_reading():
            source.pause_reading()
        elif not is_full and not source.is_reading():
            source.resume_reading()


async def _serve(link: Link) -> int:
    loop = asyncio.get_running_loop()
    dials: set[asyncio.Task[None]] = set()

    async def dial(connection: _Connection) -> None:
        try:
            await loop.create_connection(lambda: connection.far, *link.target)
        except OSError:
            connection.near.reset()

    def accepted() -> asyncio.Protocol:
        connection = _Connection(link)
        task = loop.create_task(dial(connection))
        dials.add(task)
        task.add_done_callback(dials.discard)
        return connection.near

    server = await loop.create_server(accepted, "127.0.0.1", 0)
    port: int = server.sockets[0].getsockname()[1]
    return port


async def _run(words: list[dict[str, Any]]) -> None:  # Any: JSON
    links = {word["name"]: Link(word["name"], word["host"], word["port"]) for word in words}
    ports = {name: await _serve(link) for name, link in links.items()}
    _say(ports)
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        command = msgspec.json.decode(line)
        if command.get("figures"):
            _say({name: {"opened": link.opened, "bytes": link.bytes} for name, link in links.items()})
        else:
            links[command["link"]].obey(command)


def _say(words: object) -> None:
    os.write(1, msgspec.json.encode(words) + b"\n")


if __name__ == "__main__":
    die_with_parent()
    uvloop.run(_run(msgspec.json.decode(sys.argv[1])))
