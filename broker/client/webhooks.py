"""Webhooks as an agent receives them: the signature checked, the answer put as the broker reads it.

`verify` alone is for frameworks of one's own; `WebhookApp` is a whole ASGI 3 application for one endpoint, to
be mounted anywhere or served by itself. It answers 401 to what is not signed with one of the secrets, or too
long ago, and 503 with `Retry-After` to what shall come again.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from time import time
from typing import Any, Final

import msgspec

from broker.client.incoming import Arrival
from broker.client.outcomes import Again, Failed, Outcome, Processed
from broker.transport import signature
from schema.codec import encode
from schema.errors import Unauthenticated
from schema.limits import MESSAGE_BYTES_MAX

TOLERANCE_S: Final = 300
BODY_BYTES_MAX: Final = 2 * MESSAGE_BYTES_MAX
"""The broker pushes nothing as large; more is 413."""

Scope = MutableMapping[str, Any]  # ASGI's own
Event = MutableMapping[str, Any]  # ASGI's own
Receive = Callable[[], Awaitable[Event]]
Send = Callable[[Event], Awaitable[None]]
Handle = Callable[[Arrival, int], Awaitable[Outcome]]
"""Takes a message and the number of the attempt."""

_decode: Final = msgspec.json.Decoder(Arrival).decode


def verify(
    secrets: str | Iterable[str],
    headers: Mapping[str, str],
    body: bytes,
    *,
    now_s: float | None = None,
    tolerance_s: int = TOLERANCE_S,
) -> None:
    """Check that a push is the broker's: signed with one of the secrets, at most `tolerance_s` away from now.

    `body`: the bytes as they came, not JSON encoded again. Two secrets at a time make a rotation.

    Raises: Unauthenticated saying what is wrong; Rejected for a secret that is none.
    """
    at_s = int(time() if now_s is None else now_s)
    refused: Unauthenticated | None = None
    for secret in (secrets,) if isinstance(secrets, str) else tuple(secrets):
        try:
            signature.verify(secret, headers, body, now_s=at_s, tolerance_s=tolerance_s)
        except Unauthenticated as error:
            refused = error
        else:
            return
    raise refused or Unauthenticated("there is no secret to check the signature with")


class WebhookApp:
    """An ASGI application that takes pushes on every path it is mounted at. `secrets`: one, or while they are
    rotated both."""

    def __init__(
        self, handle: Handle, *, secrets: str | Iterable[str], tolerance_s: int = TOLERANCE_S
    ) -> None:
        self._handle = handle
        self._secrets = (secrets,) if isinstance(secrets, str) else tuple(secrets)
        self._tolerance_s = tolerance_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        elif scope["type"] != "http":
            raise ValueError(f"a webhook is no {scope['type']} connection")
        elif scope["method"] != "POST":
            await _answer(send, 405, _fault("a webhook is posted"), {"allow": "POST"})
        else:
            await self._take(scope, receive, send)

    async def _take(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = await _read(receive)
        if body is None:
            await _answer(send, 413, _fault(f"more than {BODY_BYTES_MAX} bytes"))
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        try:
            verify(self._secrets, headers, body, tolerance_s=self._tolerance_s)
            arrival = _decode(body)
        except Unauthenticated as error:
            await _answer(send, 401, _fault(error.message))
        except msgspec.MsgspecError as error:
            await _answer(send, 400, _fault(f"not a message: {error}"))
        else:
            outcome = await self._handle(arrival, _attempt(headers))
            await _answer(send, *answer_to(outcome))


def answer_to(outcome: Outcome) -> tuple[int, dict[str, Any], dict[str, str]]:  # Any: JSON
    """Return status, body and headers that tell the broker what became of a pushed message.

    It reads no failure out of a 2xx; who wants one recorded sets the message's status first.
    """
    match outcome:
        case Processed(result, reply):
            body = {"status": "processed", "result": result}
            return 200, body if reply is None else {**body, "reply": reply}, {}
        case Failed(reason):
            return 200, {"status": "failed", "reason": reason}, {}
        case Again(after_s):
            return 503, _fault("not now"), {"retry-after": str(max(1, round(after_s)))}


async def _read(receive: Receive) -> bytes | None:
    """Return the body, None where it is too large or its sender has gone."""
    body = b""
    while len(body) <= BODY_BYTES_MAX:
        event = await receive()
        if event["type"] != "http.request":
            return None
        body += event.get("body", b"")
        if not event.get("more_body", False):
            return bytes(body)
    return None


async def _answer(
    send: Send,
    status: int,
    body: dict[str, Any],
    headers: Mapping[str, str] | None = None,  # Any: JSON
) -> None:
    content = encode(body)
    fields = {"content-type": "application/json", "content-length": str(len(content)), **(headers or {})}
    encoded = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in fields.items()]
    await send({"type": "http.response.start", "status": status, "headers": encoded})
    await send({"type": "http.response.body", "body": content})


async def _live(receive: Receive, send: Send) -> None:
    """Say yes to a server that asks whether we are up: there is nothing to start."""
    while True:
        event = await receive()
        await send({"type": f"{event['type']}.complete"})
        if event["type"] == "lifespan.shutdown":
            return


def _attempt(headers: Mapping[str, str]) -> int:
    text = headers.get("x-attempt", "1")
    return int(text) if text.isascii() and text.isdigit() and len(text) < 6 else 1


def _fault(message: str) -> dict[str, Any]:  # JSON
    return {"error": {"code": "webhook_refused", "message": message}}
