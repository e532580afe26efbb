"""The synchronous client, for scripts: the operations, types and errors of `AgentClient` without asyncio.

No event loop runs behind it: it is httpx's blocking client under the same requests.
"""

import time
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, Self, TypeVar

import httpx

from broker.client.events import EventReader, StreamEvent
from broker.client.failures import raise_for
from broker.client.request import Listing, Request, headers_of, pause_s, read, tls, unreachable
from broker.client.subject import Blocking
from broker.client.surface import Surface
from schema.errors import BrokerError
from schema.http import BatchResult

T = TypeVar("T")

TIMEOUT_S: Final = 10.0


class Client(Surface[Blocking], Blocking):
    """Talks to one gateway. Use `with Client(url, key) as client`.

    `agent_id`: whom an operator's key acts as, where a call names no sender itself.
    """

    def __init__(
        self, url: str, key: str, *, agent_id: str | None = None, timeout_s: float = TIMEOUT_S
    ) -> None:
        super().__init__(self)
        self._timeout_s = timeout_s
        self._http = httpx.Client(
            base_url=url,
            headers=headers_of(key, agent_id),
            timeout=timeout_s,
            verify=tls(),
            trust_env=False,
        )

    def send_batch(
        self,
        messages: Iterable[Mapping[str, Any]],  # fields of SendRequest
    ) -> list[BatchResult]:
        """Send up to 1,000 messages (fields of SendRequest); return the id or the error of each, in order.

        Raises: Rejected for the batch as a whole, Unavailable.
        """
        return self.messages.send_batch(messages).results

    def is_ready(self) -> bool:
        """Tell whether the broker answers and can do its work."""
        try:
            return self._http.get("/readyz").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- the shell ----------------------------------------------------------------------------------------

    def perform(self, request: Request[T]) -> T:
        """Carry out one request. Raises: BrokerError."""
        return read(request, self._send(request).content)

    def walk(self, pages: Listing[T]) -> Iterator[T]:
        """Yield every row, page after page. Raises: BrokerError."""
        cursor: str | None = None
        while True:
            request = pages.request(cursor)
            reply = self._send(request)
            rows, cursor = pages.page(reply.headers, read(request, reply.content))
            yield from rows
            if cursor is None:
                return

    def listen(self, request: Request[StreamEvent]) -> Iterator[StreamEvent]:
        """Yield events as they come, to the stream's end. Raises: BrokerError."""
        reader = EventReader()
        try:
            with self._http.stream(**request.streaming(self._timeout_s)) as reply:
                if reply.is_error:
                    raise_for(reply.status_code, reply.read())
                for line in reply.iter_lines():
                    yield from reader.feed(line)
        except httpx.TransportError as error:
            raise unreachable(error) from error

    def _send(self, request: Request[Any]) -> httpx.Response:
        """Send a request, again where that is safe and may help; raise what the broker refused."""
        attempt = 0
        while True:
            try:
                return self._once(request)
            except BrokerError as error:
                wait_s = pause_s(request, error, attempt)
                if wait_s is None:
                    raise
            time.sleep(wait_s)
            attempt += 1

    def _once(self, request: Request[Any]) -> httpx.Response:  # a request of any reply
        try:
            reply = self._http.send(self._http.build_request(**request.arguments(self._timeout_s)))
        except httpx.TransportError as error:
            raise unreachable(error) from error
        raise_for(reply.status_code, reply.content, retry_after=reply.headers.get("retry-after"))
        return reply
