"""The short way of `POST /api/messages?wait=accepted`, in front of the framework: the same contract for less.

A request goes this way when nothing about it has to be asked: its key was proved before, its recipient is
remembered and takes messages of everybody, and it has no header or field that needs more. Whatever is
unusual, and whatever is wrong with it, goes on to the framework untouched: until it publishes this way
changes nothing, so those refusals are written in one place only.

What it must not do is decide: each of its questions has the answer "yes", or "ask the ordinary way".
"""

import asyncio
from time import perf_counter
from typing import Any, Final

from broker.gateway import errors
from broker.gateway.call import Principal, Reply, Scope
from broker.gateway.messages import PUBLISHED, accept_at_once, is_new, pending_view, reply_of
from broker.gateway.operation import Operation
from broker.gateway.reading import BodyReader
from broker.gateway.services import Services
from broker.gateway.streaming import App, Receive, Send, refuse
from broker.telemetry import logs, metrics
from schema import limits
from schema.codec import encode
from schema.errors import BrokerError
from schema.message import Envelope, SendRequest
from schema.times import from_ms

PATH: Final = "/api/messages"
QUERY: Final = b"wait=accepted"
_JSON: Final = (None, b"application/json")
_UNUSUAL: Final = (b"x-agent-id", b"idempotency-key", b"content-encoding")
"""Headers that the ordinary way reads and this one does not."""


class QuickSend:
    """An ASGI application: serves what it can, `rest` serves everything else."""

    def __init__(self, services: Services, operation: Operation, rest: App) -> None:
        self._services = services
        self._rest = rest
        self._read = BodyReader[SendRequest](operation.body, operation.check).read
        self._bytes_max = operation.body_bytes_max
        self._is_on = services.settings.require_authentication  # else another site's page might be asking
        self._counts = {
            n: metrics.HTTP_REQUESTS.child(operation=operation.name, status=f"{n}xx") for n in range(1, 6)
        }
        self._seconds = metrics.HTTP_SECONDS.child(operation=operation.name)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:  # ASGI's scope
        if (
            scope["path"] != PATH
            or scope["type"] != "http"
            or scope["method"] != "POST"
            or scope["query_string"] != QUERY
            or not self._is_on
        ):
            await self._rest(scope, receive, send)
            return
        started = perf_counter()
        headers = dict(scope["headers"])
        principal = self._principal(headers) if len(headers) == len(scope["headers"]) else None
        if principal is None:
            await self._rest(scope, receive, send)
            return
        status = await self._serve(scope, headers, principal, receive, send)
        if status is not None:
            self._counts[status // 100].inc()
            self._seconds.observe(perf_counter() - started)

    async def _serve(
        self,
        scope: dict[str, Any],  # ASGI's
        headers: dict[bytes, bytes],
        principal: Principal,
        receive: Receive,
        send: Send,
    ) -> int | None:
        """Read the body, publish and answer; return the status, None where `rest` has served the request."""
        given = headers.get(b"x-request-id")
        request_id = None if given is None else given.decode("latin-1")
        try:
            is_whole = scope["state"].get("is_whole", False)
            event = await receive() if is_whole else await _body(receive, self._bytes_max)
            envelope = self._envelope(event, principal)
            if envelope is not None:
                await self._services.publish([envelope])
        except BrokerError as error:
            await refuse(send, "http", error, request_id)
            return error.status
        except Exception as error:  # the top of the request: a bug of ours
            request_id = await refuse(send, "http", errors.Internal(errors.LOGGED), request_id)
            logs.error("gateway.failed", error=error, request_id=request_id, method="POST", path=PATH)
            return errors.Internal.status
        if envelope is None:
            await self._rest(scope, _again(event, receive), send)
            return None
        PUBLISHED.inc()
        reply = reply_of(self._services, pending_view(envelope), 202)
        await _answer(send, reply, errors.request_id(request_id))
        return 202

    def _principal(self, headers: dict[bytes, bytes]) -> Principal | None:
        """Return who calls, if that is known and they may send, and the headers ask for nothing else."""
        authorization = headers.get(b"authorization")
        if authorization is None or headers.get(b"content-type") not in _JSON:
            return None
        for name in _UNUSUAL:
            if name in headers:
                return None
        services = self._services
        now_ms = services.now_ms()
        principal = services.keyring.remembered(authorization, now_ms=now_ms)
        if principal is None or Scope.MESSAGES_SEND not in principal.scopes:
            return None
        if principal.agent_id is not None:
            services.signs_of_life.hear(principal.agent_id)
            services.key_use.note(principal.key_id, now_ms=now_ms)
        return principal

    def _envelope(self, event: dict[str, Any], principal: Principal) -> Envelope | None:  # an ASGI event
        """Return the message as it will be published, if nobody has to be asked about it."""
        if event["type"] != "http.request" or event.get("more_body") or len(event["body"]) > self._bytes_max:
            return None
        try:
            request = self._read(event["body"])
        except BrokerError:
            return None
        services, sender = self._services, principal.agent_id
        if request.from_agent_id not in (None, sender) or not is_new(services, request):
            return None
        return accept_at_once(services, request, sender, from_ms(services.now_ms()))


async def _body(receive: Receive, bytes_max: int) -> dict[str, Any]:  # an ASGI event
    """Return the body as one event, or as much of it as says that it is too large. Raises: BodyTimeout."""
    body = b""
    try:
        async with asyncio.timeout(limits.BODY_RECEIVE_MS_MAX / 1000):
            while True:
                event = await receive()
                if event["type"] != "http.request":
                    return event
                body += event["body"]
                if not event["more_body"] or len(body) > bytes_max:
                    return {**event, "body": body}
    except TimeoutError:
        raise errors.BodyTimeout(errors.LATE) from None


async def _answer(send: Send, reply: Reply, request_id: str) -> None:
    body = encode(reply.body)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(body)),
        (b"x-request-id", request_id.encode()),
        *((name.lower().encode(), value.encode()) for name, value in reply.headers),
    ]
    await send({"type": "http.response.start", "status": reply.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _again(event: dict[str, Any], receive: Receive) -> Receive:  # an ASGI event
    """Return a `receive` that gives this event once more, and then what comes."""
    given = [event]

    async def receive_again() -> dict[str, Any]:
        return given.pop() if given else await receive()

    return receive_again
