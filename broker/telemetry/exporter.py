"""A port with `/metrics`, `/healthz` and `/readyz`, in the event loop of the process: HTTP/1.1, one request a
connection.

Deliberately no framework: every process has one of these, and it must not cost it a dependency or a thread.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final

from prometheus_client import CONTENT_TYPE_LATEST

from broker.telemetry import metrics, readiness
from schema.errors import Unavailable

HEAD_BYTES_MAX: Final = 8 * 1024
EXCHANGE_S: Final = 10.0
"""A scrape takes milliseconds; a peer that dribbles is cut off."""

Render = Callable[[], Awaitable[bytes]]


class PortTaken(Unavailable):
    """Nothing can listen there; the message says where."""

    code = "port_taken"


async def render_own() -> bytes:
    """Return the metrics of this process."""
    return metrics.render()


@asynccontextmanager
async def serving_metrics(host: str, port: int, render: Render = render_own) -> AsyncIterator[int]:
    """Serve metrics while the context is open; gives the port (a free one was chosen for 0).

    Raises: PortTaken.
    """

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(EXCHANGE_S):
                head = await reader.readuntil(b"\r\n\r\n")
                writer.write(await _reply(head, render))
                await writer.drain()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            writer.transport.abort()
        finally:
            writer.close()

    try:
        server = await asyncio.start_server(answer, host, port, limit=HEAD_BYTES_MAX)
    except OSError as error:
        raise PortTaken(f"cannot serve metrics on {host}:{port}: {error.strerror}") from None
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()


async def _reply(head: bytes, render: Render) -> bytes:
    method, _, rest = head.partition(b" ")
    path = rest.partition(b" ")[0].partition(b"?")[0]
    if path not in (b"/metrics", b"/healthz", b"/readyz"):
        return _message(404, "Not Found", "text/plain", b"metrics are at /metrics\n")
    if method != b"GET":
        return _message(405, "Method Not Allowed", "text/plain", b"GET only\n")
    if path == b"/healthz":
        return _message(200, "OK", "text/plain", b"ok\n")
    if path == b"/readyz":
        return _ready()
    return _message(200, "OK", CONTENT_TYPE_LATEST, await render())


def _ready() -> bytes:
    awaited = readiness.awaited()
    if not awaited:
        return _message(200, "OK", "text/plain", b"ready\n")
    lines = "".join(f"waits for {store}: {reason}\n" for store, reason in awaited.items())
    return _message(503, "Service Unavailable", "text/plain", lines.encode())


def _message(status: int, phrase: str, content_type: str, body: bytes) -> bytes:
    head = (
        f"HTTP/1.1 {status} {phrase}\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body
