"""The web server's side of replies that stream: Server-Sent Events, and WebSockets on the same path.

Stands in front of the framework and takes the requests of operations that stream; everything else goes on to
it. A refusal looks as anywhere: the status and the one body of errors, to an upgrade as well. What is said
on the stream is the handler's business (`Reply.stream`).

A browser cannot set headers on a WebSocket: it offers the key as subprotocol `bearer.<key>`. Never in the
query, which ends up in logs.
"""

from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import Any, Final

import falcon.asgi

from broker.gateway import errors
from broker.gateway.call import Reply
from broker.gateway.channel import Channel, Gone, Kind
from broker.gateway.entering import entrance
from broker.gateway.operation import Operation
from broker.gateway.services import Services
from broker.telemetry import logs, metrics
from schema.errors import BrokerError

Scope = dict[str, Any]  # ASGI: whatever the server knows of a request
Receive = Callable[[], Awaitable[dict[str, Any]]]  # ASGI events
Send = Callable[[dict[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

SUBPROTOCOL: Final = "agent-broker"
BEARER: Final = "bearer."
FAILED: Final = 1011
_HEADERS: Final = [
    (b"content-type", b"text/event-stream"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),  # or a proxy collects events before it passes them on
]


class Streaming:
    """Serves the operations that stream."""

    def __init__(
        self, services: Services, operations: Sequence[Operation], rest: falcon.asgi.App[Any, Any]
    ) -> None:
        self._rest = rest
        self._by_path = {one.path: _Streamed(services, one, rest.req_options) for one in operations}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        streamed = self._by_path.get(scope["path"].rstrip("/"))
        if scope["type"] == "websocket":
            if (await receive())["type"] == "websocket.connect":
                await _upgrade(streamed, scope, receive, send)
        elif streamed is not None and scope["method"] == "GET":
            await streamed.serve(_Events(scope, receive, send), scope, receive)
        else:
            await self._rest(scope, receive, send)


async def _upgrade(streamed: "_Streamed | None", scope: Scope, receive: Receive, send: Send) -> None:
    socket = _Socket(scope, receive, send)
    if streamed is None:
        await socket.refuse(errors.NoSuchPath("no WebSocket is served at this path; see /docs"), None)
    else:
        await streamed.serve(socket, scope, receive)


class _Streamed:
    """One operation that streams."""

    def __init__(self, services: Services, operation: Operation, options: falcon.RequestOptions) -> None:
        self._services = services
        self._handler = operation.handler
        self._enter = entrance(services, operation)
        self._options = options
        self._counts = {
            n: metrics.HTTP_REQUESTS.child(operation=operation.name, status=f"{n}xx") for n in range(1, 6)
        }
        self._seconds = metrics.HTTP_SECONDS.child(operation=operation.name)

    async def serve(self, channel: "_Events | _Socket", scope: Scope, receive: Receive) -> None:
        """Run the operation: its checks, and then the stream they let begin."""
        started = perf_counter()
        stream: Callable[[Channel], Awaitable[None]] | None = None
        req = falcon.asgi.Request(scope, receive, options=self._options)
        given_id = req.get_header("X-Request-Id")
        try:
            stream = (await self._checked(channel, req)).stream
            assert stream is not None
            status = await channel.accept(given_id)
        except Gone:
            return
        except BrokerError as error:
            status = error.status
            await channel.refuse(error, given_id)
        except Exception as error:
            status = 500
            request_id = await channel.refuse(errors.Internal(errors.LOGGED), given_id)
            logs.error("gateway.failed", error=error, request_id=request_id, path=req.path)
        self._counts[status // 100].inc()
        self._seconds.observe(perf_counter() - started)
        if status < 300 and stream is not None:
            await _run(stream, channel)

    async def _checked(self, channel: "_Events | _Socket", req: falcon.asgi.Request) -> Reply:
        call = await self._enter(req, {}, req.get_header("Authorization") or channel.credentials)
        return await self._handler(call)


async def _run(stream: Callable[[Channel], Awaitable[None]], channel: "_Events | _Socket") -> None:
    """Run a stream to its end. Top of the connection: what fails is logged, and ends it."""
    try:
        await stream(channel)
    except Gone:
        return
    except Exception as error:
        logs.error("gateway.stream_failed", error=error, kind=channel.kind.value)
        await channel.close(FAILED, "something went wrong here; it has been logged")


class _Events:
    """Server-Sent Events on a request."""

    kind = Kind.EVENTS
    credentials: str | None = None

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self.abort: Callable[[], None] = scope["state"]["abort"]

    async def accept(self, given_id: str | None) -> int:
        request_id = errors.request_id(given_id)
        headers = [*_HEADERS, (b"x-request-id", request_id.encode())]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        return 200

    async def refuse(self, error: BrokerError, given_id: str | None) -> str:
        return await refuse(self._send, "http", error, given_id)

    async def send(self, data: bytes) -> None:
        # To a peer that has gone the server sends nothing, without a word; `receive` has it.
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def receive(self) -> bytes | None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        return None

    async def close(self, code: int, reason: str) -> None:  # noqa: ARG002  # sockets only
        await self._send({"type": "http.response.body", "body": b""})


class _Socket:
    """A WebSocket."""

    kind = Kind.SOCKET

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send_event = send
        self.abort: Callable[[], None] = scope["state"]["abort"]
        offered: list[str] = scope["subprotocols"]
        bearer = next((one for one in offered if one.startswith(BEARER)), None)
        self.credentials = None if bearer is None else f"Bearer {bearer.removeprefix(BEARER)}"
        # A browser hangs up unless one of those it offered is chosen.
        self._chosen = SUBPROTOCOL if SUBPROTOCOL in offered else bearer

    async def accept(self, given_id: str | None) -> int:
        headers = [(b"x-request-id", errors.request_id(given_id).encode())]
        event = {"type": "websocket.accept", "subprotocol": self._chosen, "headers": headers}
        await self._send(event)
        return 101

    async def refuse(self, error: BrokerError, given_id: str | None) -> str:
        return await refuse(self._send, "websocket.http", error, given_id)

    async def send(self, data: bytes) -> None:
        await self._send({"type": "websocket.send", "text": data.decode()})

    async def receive(self) -> bytes | None:
        event = await self._receive()
        if event["type"] != "websocket.receive":
            return None
        text = event.get("text")
        data: bytes = event["bytes"] if text is None else text.encode()
        return data

    async def close(self, code: int, reason: str) -> None:
        try:
            await self._send({"type": "websocket.close", "code": code, "reason": reason})
        except Gone:
            return

    async def _send(self, event: dict[str, Any]) -> None:  # an ASGI event
        try:
            await self._send_event(event)
        except (OSError, RuntimeError):
            # The server's ways to say that the socket is closed: lost, or by a close frame of either side.
            raise Gone from None


async def refuse(
    send: Callable[[dict[str, Any]], Awaitable[None]],  # ASGI events
    protocol: str,
    error: BrokerError,
    given_id: str | None,
) -> str:
    """Answer with an error as it always looks; return the request's id."""
    error = errors.presentable(error)
    request_id = errors.request_id(given_id)
    body = errors.encode_error(error, request_id)
    headers = {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "X-Request-Id": request_id,
        **errors.error_headers(error),
    }
    pairs = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    await send({"type": f"{protocol}.response.start", "status": error.status, "headers": pairs})
    await send({"type": f"{protocol}.response.body", "body": body})
    if error.status >= 500:
        logs.warning("gateway.refused", request_id=request_id, code=error.code, reason=error.message)
    return request_id
