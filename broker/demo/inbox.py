"""An agent's HTTP endpoint: checks the signature, reads the message, asks the agent what to answer.

This is what an agent on this broker has to have, and not more; copy it. Falcon on uvicorn, over a socket the
stage has bound, so that an endpoint has its address before its process exists.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from time import time
from typing import Any, Final

import falcon
import falcon.asgi
import msgspec
import uvicorn

from broker.transport.signature import verify
from schema.errors import Unauthenticated

KEEP_ALIVE_S: Final = 60
"""Longer than the broker keeps an idle connection, so that it never sends into one we are closing."""


class Pushed(msgspec.Struct, kw_only=True):
    """The fields of a pushed message that the demonstration's agents look at."""

    id: str
    message_type: str
    content: dict[str, Any]  # JSON of whatever agent sent it
    from_agent_id: str | None = None
    reply_to: str | None = None


Handle = Callable[[Pushed, int], Awaitable[int]]
"""Takes a message and the number of the attempt, returns the HTTP status to answer."""

_decode: Final = msgspec.json.Decoder(Pushed).decode


class Inbox:
    """The one resource of an endpoint."""

    def __init__(self, secret: str, handle: Handle) -> None:
        self._secret = secret
        self._handle = handle

    async def on_post(self, request: falcon.asgi.Request, response: falcon.asgi.Response) -> None:
        body = await request.stream.read()
        try:
            verify(self._secret, request.headers, body, now_s=int(time()))
        except Unauthenticated as error:
            response.status = falcon.HTTP_401
            response.media = {"error": error.message}
            return
        attempt = int(request.get_header("x-attempt") or 1)
        response.status = await self._handle(_decode(body), attempt)


async def serve(listening: socket.socket, secret: str, handle: Handle, stop: asyncio.Event) -> None:
    """Answer pushes on the socket until `stop` is set."""
    app = falcon.asgi.App()
    app.add_route("/inbox", Inbox(secret, handle))
    config = uvicorn.Config(
        app, log_level="warning", lifespan="off", timeout_keep_alive=KEEP_ALIVE_S, timeout_graceful_shutdown=1
    )
    server = uvicorn.Server(config)

    async def end() -> None:
        await stop.wait()
        server.should_exit = True

    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(end())
        tasks.create_task(server.serve(sockets=[listening]))
