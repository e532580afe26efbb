"""HTTP/1.1 on the socket: uvicorn's protocol, with bounds on the head of a request, and its refusals in the
one shape errors have here.

uvicorn bounds neither how large a request's head may be nor how long it may take; a client that sends headers
for ever would grow the process. Bodies are bounded where they are read.
"""

import asyncio
from typing import Any, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from broker.gateway import errors
from schema import limits
from schema.errors import BrokerError, Malformed
from schema.ids import new_id

LINGER_S: Final = 1.0
LINGER_BYTES_MAX: Final = 1024 * 1024
_PHRASES: Final = {400: b"Bad Request", 408: b"Request Timeout", 431: b"Request Header Fields Too Large"}


class BoundedProtocol(HttpToolsProtocol):
    """One connection of the gateway."""

    def __init__(self, *arguments: Any, **named: Any) -> None:  # uvicorn's own
        super().__init__(*arguments, **named)
        self._head_bytes = 0
        self._in_head = False
        self._refusal: BrokerError | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._discarded_bytes = -1
        """After a refusal; before one -1."""

    def connection_made(self, transport: Any) -> None:  # uvicorn's own
        super().connection_made(transport)
        # Who connects and says nothing is given as long as a head is.
        self._await_head()

    def data_received(self, data: bytes) -> None:
        if self._discarded_bytes >= 0:
            self._discard(data)
            return
        super().data_received(data)
        if self._in_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > limits.REQUEST_HEAD_BYTES_MAX:
                self._refuse(_too_large())

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self.scope["state"]["abort"] = self.transport.abort  # for streams whose peer takes nothing any more
        self.scope["state"]["is_gone"] = self.transport.is_closing
        self._in_head, self._head_bytes = True, 0
        self._await_head()

    def on_message_complete(self) -> None:
        # Whoever sees it need not wait for the body. It must be set before the request's task runs.
        self.scope["state"]["is_whole"] = True
        super().on_message_complete()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._forget_deadline()
        framing = 4 * len(self.headers)  # ': ' and the end of the line
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers) + framing
        if size > limits.REQUEST_HEAD_BYTES_MAX:
            self._refusal = _too_large()
            raise self._refusal  # the parser turns it into an error of its own, which becomes a refusal
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_deadline()
        super().connection_lost(exc)

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP; uvicorn calls this."""
        self._refuse(self._refusal or Malformed(msg))

    def _on_deadline(self) -> None:
        if not self.transport.is_closing():
            self._refuse(errors.BodyTimeout("the head of the request did not arrive in time"))

    def _await_head(self) -> None:
        self._forget_deadline()
        self._deadline = self.loop.call_later(limits.BODY_RECEIVE_MS_MAX / 1000, self._on_deadline)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self, error: BrokerError) -> None:
        self._in_head = False
        request_id = new_id()
        body = errors.encode_error(error, request_id)
        head = (
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
            f"x-request-id: {request_id}\r\nconnection: close\r\n\r\n"
        )
        status = b"HTTP/1.1 %d %s\r\n" % (error.status, _PHRASES[error.status])
        self.transport.write(status + head.encode() + body)
        # Closed with bytes unread, the connection would be reset, and the refusal lost with it. So only our
        # side is closed, and what still comes is thrown away, for a while and up to a bound.
        self._forget_deadline()
        self._discarded_bytes = 0
        self._deadline = self.loop.call_later(LINGER_S, self.transport.close)
        self.transport.write_eof()

    def _discard(self, data: bytes) -> None:
        self._discarded_bytes += len(data)
        if self._discarded_bytes > LINGER_BYTES_MAX:
            self.transport.close()


class SocketProtocol(WebSocketsSansIOProtocol):
    """One WebSocket of the gateway."""

    async def run_asgi(self) -> None:
        self.scope["state"]["abort"] = self.transport.abort
        await super().run_asgi()


def _too_large() -> BrokerError:
    return errors.HeadTooLarge(f"the head of a request; at most {limits.REQUEST_HEAD_BYTES_MAX} bytes")
