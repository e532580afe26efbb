"""The client for agents: every operation of the HTTP contract as a method, on httpx and asyncio.

Replies are typed; what the broker refuses is raised as the class of `schema.errors` its code belongs to. A
call that may safely run twice is tried again while the broker is unavailable: reading, heartbeats, setting a
status, and sending, because a message carries an id of its own. Registering is not: a second try could meet
its own first one.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, Final, Self, TypeVar

import httpx

from broker.client.events import EventReader, StreamEvent
from broker.client.failures import raise_for
from broker.client.request import Listing, Request, headers_of, pause_s, read, tls, unreachable
from broker.client.subject import Awaiting
from broker.client.surface import Surface
from broker.client.values import SentMessage as Message
from broker.client.values import Wait
from schema.errors import BrokerError
from schema.http import BatchResult

__all__ = ["AgentClient", "Message", "Wait"]

T = TypeVar("T")

TIMEOUT_S: Final = 10.0
CONNECTIONS_MAX: Final = 100
_NOT_REACHED: Final = (httpx.TransportError, AttributeError)
"""AttributeError: a connection that is reset as soon as it is made, on uvloop; anyio asks its socket for its
peer when it has none any more."""


class AgentClient(Surface[Awaiting], Awaiting):
    """Talks to one gateway. Use `async with AgentClient(url, key) as client`.

    `agent_id`: whom an operator's key acts as, where a call names no sender itself.
    """

    def __init__(
        self, url: str, key: str, *, agent_id: str | None = None, timeout_s: float = TIMEOUT_S
    ) -> None:
        super().__init__(self)
        self._timeout_s = timeout_s
        self._http = httpx.AsyncClient(
            base_url=url,
            headers=headers_of(key, agent_id),
            timeout=timeout_s,
            limits=httpx.Limits(max_connections=CONNECTIONS_MAX),
            verify=tls(),
            trust_env=False,
        )

    async def send_batch(
        self,
        messages: Iterable[Mapping[str, Any]],  # fields of SendRequest
    ) -> list[BatchResult]:
        """Send up to 1,000 messages (fields of SendRequest); return the id or the error of each, in order.

        Raises: Rejected for the batch as a whole, Unavailable.
        """
        return (await self.messages.send_batch(messages)).results

    async def is_ready(self) -> bool:
        """Tell whether the broker answers and can do its work."""
        try:
            return (await self._http.get("/readyz")).status_code == httpx.codes.OK
        except _NOT_REACHED:
            return False

    async def aclose(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # --- the shell ----------------------------------------------------------------------------------------

    async def perform(self, request: Request[T]) -> T:
        """Carry out one request. Raises: BrokerError."""
        return read(request, (await self._send(request)).content)

    async def walk(self, pages: Listing[T]) -> AsyncIterator[T]:
        """Yield every row, page after page. Raises: BrokerError."""
        cursor: str | None = None
        while True:
            request = pages.request(cursor)
            reply = await self._send(request)
            rows, cursor = pages.page(reply.headers, read(request, reply.content))
            for row in rows:
                yield row
            if cursor is None:
                return

    async def listen(self, request: Request[StreamEvent]) -> AsyncIterator[StreamEvent]:
        """Yield events as they come, to the stream's end. Raises: BrokerError."""
        reader = EventReader()
        try:
            async with self._http.stream(**request.streaming(self._timeout_s)) as reply:
                if reply.is_error:
                    raise_for(reply.status_code, await reply.aread())
                async for line in reply.aiter_lines():
                    for event in reader.feed(line):
                        yield event
        except _NOT_REACHED as error:
            raise unreachable(error) from error

    async def _send(self, request: Request[Any]) -> httpx.Response:
        """Send a request, again where that is safe and may help; raise what the broker refused."""
        attempt = 0
        while True:
            try:
                return await self._once(request)
            except BrokerError as error:
                wait_s = pause_s(request, error, attempt)
                if wait_s is None:
                    raise
            await asyncio.sleep(wait_s)
            attempt += 1

    async def _once(self, request: Request[Any]) -> httpx.Response:  # a request of any reply
        try:
            reply = await self._http.send(self._http.build_request(**request.arguments(self._timeout_s)))
        except _NOT_REACHED as error:
            raise unreachable(error) from error
        raise_for(reply.status_code, reply.content, retry_after=reply.headers.get("retry-after"))
        return reply
