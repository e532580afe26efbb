"""One request that is answered without the framework, and without a task of its own where that will do.

The protocol makes an exchange of a request that came whole; a `ShortWay` answers it, now or later, or says
that it does not want it, and then the framework gets it as if nothing had happened. uvicorn's protocol takes
an exchange for one of its own cycles: what came behind it on the connection waits until it is answered.

It knows how replies are written, and nothing of what is in them.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from time import perf_counter
from typing import Any, ClassVar, Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from broker.gateway import errors
from broker.gateway.call import Reply
from broker.gateway.operation import Operation
from broker.telemetry import logs, metrics
from schema.codec import encode
from schema.errors import BrokerError


class Counted:
    """Answers and counts the requests of one operation as the framework's responder does."""

    def __init__(self, operation: Operation) -> None:
        self._counts = {
            n: metrics.HTTP_REQUESTS.child(operation=operation.name, status=f"{n}xx") for n in range(1, 6)
        }
        self._seconds = metrics.HTTP_SECONDS.child(operation=operation.name)
        self._path = operation.path

    async def serve(self, exchange: "Exchange", handle: Callable[[], Awaitable[Reply]]) -> None:
        """Answer with what comes of the handler, whatever that is."""
        try:
            reply = await handle()
        except Exception as error:  # the top of the request
            self.count(exchange, exchange.fail(error, path=self._path))
            return
        exchange.answer(reply.status, reply.body if isinstance(reply.body, bytes) else encode(reply.body))
        self.count(exchange, reply.status)

    def count(self, exchange: "Exchange", status: int) -> None:
        self._counts[status // 100].inc()
        self._seconds.observe(perf_counter() - exchange.began_s)


class Exchange:
    """A request with its body, and the way its reply goes back. It is answered exactly once."""

    __slots__ = (
        "_begin",
        "_send",
        "began_s",
        "body",
        "disconnected",
        "headers",
        "keep_alive",
        "response_complete",
    )

    message_event: ClassVar[asyncio.Event] = asyncio.Event()
    """uvicorn sets it when the connection is lost; nobody waits for it here."""

    def __init__(
        self,
        headers: dict[bytes, bytes],
        body: bytes,
        *,
        send: Callable[["Exchange", list[bytes]], None],
        begin: Callable[[Coroutine[Any, Any, None]], None],  # whatever it waits for
    ) -> None:
        self.headers = headers
        """Names in small letters."""
        self.body = body
        self.began_s = perf_counter()
        self.disconnected = False
        self.keep_alive = True
        self.response_complete = False
        self._send = send
        self._begin = begin

    @property
    def given_id(self) -> str | None:
        """What the caller calls its request."""
        given = self.headers.get(b"x-request-id")
        return None if given is None else given.decode("latin-1")

    def run(self, work: Coroutine[Any, Any, None]) -> None:  # whatever it waits for
        """Answer from a task; the server waits for it when it stops."""
        self._begin(work)

    def answer(self, status: int, body: bytes, headers: bytes = b"") -> None:
        """Send the reply. `headers`: further ones, each with the end of its line."""
        request_id = errors.request_id(self.given_id)
        self._send(
            self,
            [
                STATUS_LINE[status],
                b"content-type: application/json\r\ncontent-length: %d\r\nx-request-id: %b\r\n"
                % (len(body), request_id.encode()),
                headers,
                b"\r\n",
                body,
            ],
        )

    def refuse(self, error: BrokerError) -> int:
        """Answer with an error as it always looks; return its status."""
        error = errors.presentable(error)
        request_id = errors.request_id(self.given_id)
        body = errors.encode_error(error, request_id)
        self.headers[b"x-request-id"] = request_id.encode()
        more = [f"{name.lower()}: {value}\r\n" for name, value in errors.error_headers(error).items()]
        self.answer(error.status, body, "".join(more).encode())
        if error.status >= 500:
            logs.warning("gateway.refused", request_id=request_id, code=error.code, reason=error.message)
        return error.status

    def fail(self, error: BaseException, *, path: str) -> int:
        """Answer for what should not have happened; the log tells it. Returns the status."""
        if isinstance(error, BrokerError):
            return self.refuse(error)
        request_id = errors.request_id(self.given_id)
        self.headers[b"x-request-id"] = request_id.encode()
        logs.error("gateway.failed", error=error, request_id=request_id, method="POST", path=path)
        return self.refuse(errors.Internal(errors.LOGGED))


ShortWay = Callable[[Exchange], bool]
"""One operation, as far as it can be served without the framework. It sees that the request is answered;
False: the framework shall do it, and nothing was done here."""

NO_WAYS: Final[dict[bytes, ShortWay]] = {}
