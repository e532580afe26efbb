"""HTTP/1.1 on the socket: uvicorn's protocol, with bounds on the head of a request, its refusals in the one
shape errors have here, and short ways for the requests that are most frequent.

uvicorn bounds neither how large a request's head may be nor how long it may take; a client that sends headers
for ever would grow the process. Bodies are bounded where they are read.

A request to a target that has a short way is collected here and offered to it whole
(`broker.gateway.exchange`). Whatever is unusual about it sends it on to the framework: one that follows
another on the same connection before that is answered, one that is to be the last, one whose body is too
large or does not come in time.
"""

import asyncio
from collections.abc import Coroutine, Mapping
from typing import Any, ClassVar, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.protocols.websockets.websockets_sansio_impl import WebSocketsSansIOProtocol

from broker.gateway import errors
from broker.gateway.exchange import NO_WAYS, Exchange, ShortWay
from schema import limits
from schema.errors import BrokerError, Malformed, TooManyConnections
from schema.ids import new_id

LINGER_S: Final = 1.0
LINGER_BYTES_MAX: Final = 1024 * 1024
_PHRASES: Final = {
    400: b"Bad Request",
    408: b"Request Timeout",
    431: b"Request Header Fields Too Large",
    503: b"Service Unavailable",
}


class BoundedProtocol(HttpToolsProtocol):
    """One connection of the gateway. `ways`: by target (path and query) of a POST. `connections_max`: of the
    server; one more is answered 503 and closed."""

    _written: ClassVar[tuple[list[tuple[bytes, bytes]], bytes]] = ([], b"")
    """The common headers of replies, and what is written for them."""

    def __init__(
        self,
        *arguments: Any,
        ways: Mapping[bytes, ShortWay] = NO_WAYS,
        connections_max: int = limits.HTTP_CONNECTIONS_MAX,
        **named: Any,
    ) -> None:
        super().__init__(*arguments, **named)  # Any: uvicorn's own
        self._connections_max = connections_max
        self._ways = ways
        self._way: ShortWay | None = None
        """Of the request whose body is being collected."""
        self._body: list[bytes] = []
        self._body_bytes = 0
        self._head_bytes = 0
        self._in_head = False
        self._in_trailer = False
        """Whether a chunk has begun and nothing of it has come: in the last one what comes is like a head."""
        self._chunks = 0
        self._refusal: BrokerError | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._discarded_bytes = -1
        """After a refusal; before one -1."""

    def connection_made(self, transport: Any) -> None:  # uvicorn's own
        super().connection_made(transport)
        if len(self.connections) > self._connections_max:
            self._refuse(TooManyConnections(f"more than {self._connections_max} connections"))
            return
        # Who connects and says nothing is given as long as a head is.
        self._set_deadline()

    def data_received(self, data: bytes) -> None:
        if self._discarded_bytes >= 0:
            self._discard(data)
            return
        chunks = self._chunks
        super().data_received(data)
        is_head = self._in_head or (self._in_trailer and self._chunks == chunks)
        if is_head and not self.transport.is_closing():
            self._head_bytes += len(data)
            if self._head_bytes > limits.REQUEST_HEAD_BYTES_MAX:
                self._refuse(_too_large())
        # What came in one piece needs no deadline, and most requests do.
        if self._deadline is None and (self._in_head or self._way is not None or self._is_idle()):
            self._set_deadline()

    def on_message_begin(self) -> None:
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._in_head, self._head_bytes = True, 0
        self._in_trailer = False
        self._forget_deadline()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._forget_deadline()
        framing = 4 * len(self.headers)  # ': ' and the end of the line
        size = len(self.url) + sum([len(name) + len(value) for name, value in self.headers]) + framing
        if size > limits.REQUEST_HEAD_BYTES_MAX:
            self._refusal = _too_large()
            raise self._refusal  # the parser turns it into an error of its own, which becomes a refusal
        way = self._ways.get(self.url)
        if way is not None and self._may_be_short():
            self._way = way
            return
        self._begin_ordinary()

    def on_chunk_header(self) -> None:
        """Hear that a chunk begins; the parser calls this."""
        self._in_trailer, self._head_bytes = True, 0
        self._chunks += 1

    def on_body(self, body: bytes) -> None:
        self._in_trailer = False
        if self._way is None:
            super().on_body(body)
            return
        self._body.append(body)
        self._body_bytes += len(body)
        if self._body_bytes > limits.MESSAGE_BYTES_MAX:
            self._go_ordinary_way()

    def on_message_complete(self) -> None:
        self._in_trailer = False
        if self._way is not None:
            self._forget_deadline()
            if self._is_taken(self._way):
                return
            self._go_ordinary_way()
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._forget_deadline()
        self._way = None
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """Answer what is under way and close; uvicorn calls this."""
        if self._way is not None:
            self._go_ordinary_way()  # as a request whose body is still coming, it is under way
        super().shutdown()

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP; uvicorn calls this."""
        self._way = None
        self._refuse(self._refusal or Malformed(msg))

    # --- the short way ------------------------------------------------------------------------------

    def _may_be_short(self) -> bool:
        """Tell whether the request is the only one under way, and there is nothing unusual in its head."""
        parser = self.parser
        return (
            parser.get_method() == b"POST"
            and getattr(self.cycle, "response_complete", True)  # None at first, whatever uvicorn's types say
            and not self.expect_100_continue
            and parser.get_http_version() == "1.1"
            and parser.should_keep_alive()
            and not parser.should_upgrade()
            and not self.flow.write_paused
        )

    def _is_taken(self, way: ShortWay) -> bool:
        """Offer the request to its short way; True: it is answered, or will be."""
        headers = dict(self.headers)
        if len(headers) != len(self.headers):
            return False
        body = self._body[0] if len(self._body) == 1 else b"".join(self._body)
        exchange = Exchange(headers, body, send=self._reply, begin=self._run)
        before = self.cycle
        self.cycle = exchange  # type: ignore[assignment]  # has what is asked of a cycle
        try:
            taken = way(exchange)
        except Exception as error:  # the top of the request: a bug of ours
            exchange.fail(error, path=self.url.partition(b"?")[0].decode("latin-1"))
            taken = True
        if taken:
            self._way = None
            self._body, self._body_bytes = [], 0
        else:
            self.cycle = before
        return taken

    def _reply(self, exchange: Exchange, parts: list[bytes]) -> None:
        exchange.response_complete = True
        if not exchange.disconnected and not self.transport.is_closing():
            common = self._common_headers()
            if not exchange.keep_alive:
                common += b"connection: close\r\n"
            self.transport.write(b"".join((parts[0], common, *parts[1:])))
            if not exchange.keep_alive:
                self.transport.close()
        self.on_response_complete()

    def _common_headers(self) -> bytes:
        """Return the headers of every reply as they are written; uvicorn makes their list once a second."""
        headers = self.server_state.default_headers
        if headers is not BoundedProtocol._written[0]:
            BoundedProtocol._written = headers, b"".join([b"%b: %b\r\n" % header for header in headers])
        return BoundedProtocol._written[1]

    def _run(self, work: Coroutine[Any, Any, None]) -> None:  # whatever it waits for
        task = self.loop.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    # --- the ordinary way ---------------------------------------------------------------------------

    def _begin_ordinary(self) -> None:
        """Hand the request to the framework, which reads the body as it comes."""
        url, headers, expect = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()  # Makes the scope, and would forget what the head said.
        self.url, self.expect_100_continue = url, expect
        self.headers += headers
        state = self.scope["state"]
        state["abort"] = self.transport.abort  # for streams whose peer takes nothing any more
        state["is_gone"] = self.transport.is_closing
        super().on_headers_complete()

    def _go_ordinary_way(self) -> None:
        """Hand over a request that was being collected, with what has come of its body."""
        self._way = None
        self._forget_deadline()  # the framework has its own
        body, self._body, self._body_bytes = self._body, [], 0
        self._begin_ordinary()
        for part in body:
            super().on_body(part)

    # --- bounds -------------------------------------------------------------------------------------

    def _on_deadline(self) -> None:
        self._deadline = None
        if self.transport.is_closing():
            return
        if self._way is not None:
            self._go_ordinary_way()  # which has a time-out for bodies, and the word for it
        elif self._in_head or self.cycle is None:
            self._refuse(errors.BodyTimeout("the head of the request did not arrive in time"))
        else:
            self.transport.close()  # all it has asked was answered

    def _is_idle(self) -> bool:
        """Tell whether something came that belongs to no request under way: empty lines, or the rest of a
        body that was answered before it had come. uvicorn has stopped its clock for it by then."""
        return (
            self.timeout_keep_alive_task is None
            and self._discarded_bytes < 0
            and getattr(self.cycle, "response_complete", False)  # None at first
            and self in self.connections  # else it has become a WebSocket
        )

    def _set_deadline(self) -> None:
        self._forget_deadline()
        self._deadline = self.loop.call_later(limits.BODY_RECEIVE_MS_MAX / 1000, self._on_deadline)

    def _forget_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _refuse(self, error: BrokerError) -> None:
        self._in_head = self._in_trailer = False
        if not self._may_be_answered_now():
            return
        request_id = new_id()
        body = errors.encode_error(error, request_id)
        more = "".join(f"{name.lower()}: {value}\r\n" for name, value in errors.error_headers(error).items())
        head = (
            f"content-type: application/json\r\ncontent-length: {len(body)}\r\n"
            f"x-request-id: {request_id}\r\n{more}connection: close\r\n\r\n"
        )
        status = b"HTTP/1.1 %d %s\r\n" % (error.status, _PHRASES[error.status])
        self.transport.write(status + head.encode() + body)
        # Closed with bytes unread, the connection would be reset, and the refusal lost with it. So only our
        # side is closed, and what still comes is thrown away, for a while and up to a bound.
        self._forget_deadline()
        self._discarded_bytes = 0
        self._deadline = self.loop.call_later(LINGER_S, self.transport.close)
        self.transport.write_eof()

    def _may_be_answered_now(self) -> bool:
        """Tell whether a refusal would be taken for what it is; else see that the connection ends."""
        cycle: Any = self.cycle  # None at first, then uvicorn's or an exchange, whatever uvicorn's types say
        if cycle is None or cycle.response_complete:
            return True
        self._forget_deadline()
        self._discarded_bytes = 0
        if isinstance(cycle, Exchange) or not cycle.more_body:
            # It came whole and is answered still; what is refused came behind it.
            cycle.keep_alive = False
            return False
        if self.pipeline or cycle.response_started:
            self.transport.close()
            return False
        cycle.disconnected = True  # it is the one that is refused
        cycle.message_event.set()
        return True

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
