"""Something that listens on this machine's own addresses and must never be reached: it counts who comes."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

ADDRESSES = ("127.0.0.1", "127.0.0.2", "127.255.255.254")


class Canary:
    """Counts connections and what is sent over them; a request gets a 200 and would show as a success."""

    def __init__(self) -> None:
        self.port = 0
        self.came = 0
        self.heard_bytes = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.came += 1
        try:
            while b"\r\n\r\n" not in (head := await reader.read(65_536)):
                self.heard_bytes += len(head)
                if not head:
                    return
            self.heard_bytes += len(head)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nsecret")
            await writer.drain()
        except OSError:
            return
        finally:
            writer.transport.abort()


@asynccontextmanager
async def listening() -> AsyncIterator[Canary]:
    """Listen on several loopback addresses at one port, also on `::1` where this machine has it."""
    canary = Canary()
    servers = [await asyncio.start_server(canary._serve, ADDRESSES[0], 0)]
    canary.port = servers[0].sockets[0].getsockname()[1]
    for address in (*ADDRESSES[1:], *(["::1"] if _has_ipv6() else [])):
        servers.append(await asyncio.start_server(canary._serve, address, canary.port))
    try:
        yield canary
    finally:
        for server in servers:
            server.close()
        for server in servers:
            await server.wait_closed()


def _has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True
