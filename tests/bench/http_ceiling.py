"""What the web server can do when next to nothing is promised: the ceiling of publishing over HTTP.

The product's framework and server (Falcon on uvicorn, uvloop, httptools) answer 202 to the same requests.
`bare` reads the body and answers. `coalesced` also appends it to a stream first: the bodies of one turn of
the loop share one XADD, and so one fsync. No key, no checks, no decoding, no ids, no metrics.
"""

import asyncio
import socket
from typing import Final

import falcon.asgi
import msgspec
import uvicorn
import uvloop

from broker.bench.bare import RedisWire
from broker.bench.control import Nothing, obey

STREAM: Final = "bench:http"
KEEP_ALIVE_S: Final = 600
"""Longer than everything that is measured in between."""
REPLY: Final = b'{"status":"pending"}'


class CeilingOrder(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`do`: listen (`way`: bare | coalesced) | clear (drop the stream)."""

    do: str
    way: str = "bare"
    redis_url: str = ""


class Listening(msgspec.Struct):
    """Where the ceiling answers."""

    port: int


class Bare:
    """Reads the body and answers."""

    async def on_post(self, req: falcon.asgi.Request, resp: falcon.asgi.Response) -> None:
        await self.take(await req.stream.read())
        resp.status = 202
        resp.data = REPLY

    async def take(self, body: bytes) -> None:
        """Keep nothing."""


class Coalesced(Bare):
    """Answers when the body is on disk."""

    def __init__(self, wire: RedisWire) -> None:
        self._wire = wire
        self._bodies: list[bytes] = []
        self._stored: asyncio.Future[object] | None = None

    async def take(self, body: bytes) -> None:
        """Share the command of this turn of the loop."""
        if self._stored is None:
            loop = asyncio.get_running_loop()
            self._stored = loop.create_future()
            loop.call_soon(self._append)
        self._bodies.append(body)
        await self._stored

    def _append(self) -> None:
        assert self._stored is not None
        stored, bodies = self._stored, self._bodies
        self._stored, self._bodies = None, []
        fields = [part for body in bodies for part in (b"m", body)]
        self._wire.call("XADD", STREAM, "*", *fields).add_done_callback(
            lambda reply: stored.set_result(reply.result())
        )


async def serve() -> None:
    """Serve as the driver says, until the driver goes away."""
    servers: list[tuple[uvicorn.Server, asyncio.Task[None]]] = []
    wires: list[RedisWire] = []

    async def handle(line: bytes) -> msgspec.Struct:
        order = msgspec.json.decode(line, type=CeilingOrder)
        if order.do == "clear":
            await wires[0].call("DEL", STREAM)
            return Nothing()
        resource = Bare()
        if order.way == "coalesced":
            wires.append(await RedisWire.connect(order.redis_url))
            resource = Coalesced(wires[0])
        listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        server = _server(resource)
        servers.append((server, asyncio.create_task(server.serve(sockets=[listener]))))
        return Listening(listener.getsockname()[1])

    try:
        await obey(handle)
    finally:
        for server, serving in servers:
            server.should_exit = True
            await serving
        for wire in wires:
            wire.close()


def _server(resource: Bare) -> uvicorn.Server:
    app = falcon.asgi.App()
    app.add_route("/api/messages", resource)
    config = uvicorn.Config(
        app,
        interface="asgi3",
        loop="none",
        http="httptools",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
    )
    return uvicorn.Server(config)


if __name__ == "__main__":
    uvloop.run(serve())
