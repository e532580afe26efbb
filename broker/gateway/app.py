"""The web framework around the operations: Falcon routes, reads and writes; everything else is ours.

Per request: authenticate, authorise, read query and body, call the handler, write its reply. Nothing here
knows what an operation does, so another framework could take Falcon's place.
"""

import asyncio
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import Any, Final

import falcon
import falcon.asgi

from broker.gateway import errors, quick_batch, quick_beat
from broker.gateway.call import Reply
from broker.gateway.entering import entrance
from broker.gateway.exchange import NO_WAYS, ShortWay
from broker.gateway.operation import Operation
from broker.gateway.quick_send import ways_of_sending
from broker.gateway.reading import BodyReader
from broker.gateway.services import Services
from broker.gateway.streaming import App, Streaming
from broker.telemetry import logs, metrics
from broker.telemetry.instruments import Count
from schema import limits
from schema.codec import encode
from schema.errors import BrokerError, Malformed, TooLarge, UnsupportedMedia

Responder = Callable[..., Awaitable[None]]

_JSON_TYPES: Final = frozenset(
    (
        "application/json",
        "application/x-ndjson",
        "application/ndjson",
        "application/jsonl",
        "text/plain",
        "application/x-www-form-urlencoded",  # what curl -d says when it is not told otherwise
    )
)
"""What a body may call itself. It is read as JSON whatever it says; these are no contradiction to that."""


def make_app(services: Services, operations: Sequence[Operation]) -> App:
    """Return the ASGI application that serves these operations."""
    app = falcon.asgi.App()
    app.req_options.keep_blank_qs_values = False  # `?status=` asks for nothing
    app.req_options.strip_url_path_trailing_slash = True  # what a person types means the same
    app.resp_options.default_media_type = "application/json"
    app.add_error_handler(Exception, _on_unexpected)
    app.add_error_handler(falcon.HTTPError, _on_framework_error)
    app.add_error_handler(BrokerError, _on_error)
    by_path: dict[str, dict[str, Responder]] = defaultdict(dict)
    for operation in operations:
        responder = _responder(services, operation)
        by_path[operation.path][operation.method] = responder
        if operation.method == "GET" and not operation.streams:
            by_path[operation.path]["HEAD"] = responder
    for path, responders in by_path.items():
        app.add_route(path, _Resource(responders))
    return Streaming(services, [operation for operation in operations if operation.streams], app)


def short_ways(services: Services, operations: Sequence[Operation]) -> dict[bytes, ShortWay]:
    """Return what serves the most frequent requests without the framework, by their targets."""
    if not services.settings.require_authentication:
        return NO_WAYS  # another site's page might be asking, and the framework's way finds out
    by_name = {operation.name: operation for operation in operations}
    beat = quick_beat.QuickBeat(services, by_name["sendHeartbeat"])
    batch = quick_batch.QuickBatch(services, by_name["sendBatch"])
    others = {quick_beat.PATH.encode(): beat.take, quick_batch.PATH.encode(): batch.take}
    return ways_of_sending(services, by_name["sendMessage"]) | others


class _Resource:
    """What Falcon wants for a path: an object with one `on_<method>` per method.

    HEAD is GET without the body, which the server leaves out; OPTIONS says what the path takes.
    """

    def __init__(self, responders: dict[str, Responder]) -> None:
        for method, responder in responders.items():
            setattr(self, f"on_{method.lower()}", responder)
        self._allowed = ", ".join(sorted((*responders, "OPTIONS")))

    async def on_options(self, req: falcon.asgi.Request, resp: falcon.asgi.Response, **_: str) -> None:
        resp.status = 204
        resp.set_header("Allow", self._allowed)
        resp.set_header("X-Request-Id", _request_id(req))


def _responder(services: Services, operation: Operation) -> Responder:
    """Return the coroutine function that runs one operation; what can be made once is made here."""
    handler, enter = operation.handler, entrance(services, operation)
    read_body = _body_reader(operation)
    counts = _counts(operation.name)
    seconds = metrics.HTTP_SECONDS.child(operation=operation.name)

    async def run(req: falcon.asgi.Request, path: dict[str, str]) -> Reply:
        call = await enter(req, path, req.get_header("Authorization"))
        call.body = await read_body(req)
        call.is_gone = req.scope["state"].get("is_gone", call.is_gone)
        return await handler(call)

    async def respond(req: falcon.asgi.Request, resp: falcon.asgi.Response, **path: str) -> None:
        started = perf_counter()
        try:
            _write(req, resp, await run(req, path))
        except BrokerError as error:
            _write_error(req, resp, error)
        counts[resp.status_code // 100].inc()
        seconds.observe(perf_counter() - started)

    return respond


def _counts(operation: str) -> dict[int, Count]:
    return {n: metrics.HTTP_REQUESTS.child(operation=operation, status=f"{n}xx") for n in range(1, 6)}


def _body_reader(operation: Operation) -> Callable[[falcon.asgi.Request], Awaitable[Any]]:
    bytes_max = operation.body_bytes_max
    if operation.body is None:
        return _no_body
    if operation.raw_body:
        return lambda req: _receive(req, bytes_max)
    reader: BodyReader[Any] = BodyReader(operation.body, operation.check)  # the operation's own type

    async def read(req: falcon.asgi.Request) -> Any:  # the operation's own type
        raw = await _receive(req, bytes_max)
        return reader.read(raw or b"{}" if operation.optional_body else raw)

    return read


async def _no_body(_: falcon.asgi.Request) -> None:
    return None


async def _receive(req: falcon.asgi.Request, bytes_max: int) -> bytes:
    """Return the body. Raises: UnsupportedMedia, TooLarge, BodyTimeout."""
    if (req.get_header("Content-Encoding") or "identity").lower() != "identity":
        raise UnsupportedMedia("compressed bodies are not taken")
    content_type = req.content_type
    if content_type is not None and content_type != "application/json":
        _check_media_type(content_type)
    length = req.content_length
    if length is not None and length > bytes_max:
        raise TooLarge(f"a body of {length} bytes; at most {bytes_max}")
    try:
        async with asyncio.timeout(limits.BODY_RECEIVE_MS_MAX / 1000):
            raw = await (req.stream.read(bytes_max + 1) if length is None else req.stream.read())
    except TimeoutError:
        raise errors.BodyTimeout(errors.LATE) from None
    if len(raw) > bytes_max:
        raise TooLarge(f"a body of more than {bytes_max} bytes")
    if length is not None and len(raw) < length:
        raise Malformed("the body ended before its Content-Length")
    return raw


def _check_media_type(content_type: str) -> None:
    essence = content_type.partition(";")[0].strip().lower()
    if essence not in _JSON_TYPES and not essence.endswith("+json"):
        raise UnsupportedMedia(f"bodies are JSON, not {essence[:80]!r}")


def _write(req: falcon.asgi.Request, resp: falcon.asgi.Response, reply: Reply) -> None:
    resp.status = reply.status
    resp.set_header("X-Request-Id", _request_id(req))
    resp.content_type = reply.media_type
    resp.data = reply.body if isinstance(reply.body, bytes) else encode(reply.body)
    for name, value in reply.headers:
        resp.append_header(name, value)
    etag = resp.get_header("ETag")
    if etag is not None and etag == req.get_header("If-None-Match"):
        resp.status, resp.data = 304, b""


# --- errors -----------------------------------------------------------------------------------------------


async def _on_error(req: falcon.asgi.Request, resp: falcon.asgi.Response, error: Any, _: Any) -> None:
    _write_error(req, resp, error)  # Any: Falcon's handlers get any exception, this one BrokerErrors only


async def _on_framework_error(
    req: falcon.asgi.Request,
    resp: falcon.asgi.Response,
    error: Any,  # falcon.HTTPError
    _: Any,  # the path's parameters
) -> None:
    _write_error(req, resp, _translated(error))


async def _on_unexpected(
    req: falcon.asgi.Request,
    resp: falcon.asgi.Response,
    error: Any,  # any exception
    _: Any,  # the path's parameters
) -> None:
    """Top of the request: a bug of ours. The log tells it in full, the reply only its request id."""
    request_id = _write_error(req, resp, errors.Internal(errors.LOGGED))
    logs.error("gateway.failed", error=error, request_id=request_id, method=req.method, path=req.path)


def _translated(error: falcon.HTTPError) -> BrokerError:
    """Return what Falcon found wrong as an error of ours."""
    if isinstance(error, falcon.HTTPMethodNotAllowed):
        return errors.MethodNotAllowed(dict(error.headers or {}).get("Allow", "").split(", "))
    if isinstance(error, falcon.HTTPNotFound):
        return errors.NoSuchPath("nothing is served at this path; see /docs")
    return Malformed(error.description or error.title or "not a request this server understands")


def _request_id(req: falcon.asgi.Request) -> str:
    return errors.request_id(req.get_header("X-Request-Id"))


def _write_error(req: falcon.asgi.Request, resp: falcon.asgi.Response, error: BrokerError) -> str:
    """Write an error; return the request's id."""
    error = errors.presentable(error)
    request_id = _request_id(req)
    resp.status = error.status
    resp.content_type = "application/json"
    resp.data = errors.encode_error(error, request_id)
    resp.set_header("X-Request-Id", request_id)
    for name, value in errors.error_headers(error).items():
        resp.set_header(name, value)
    if error.status >= 500:
        logs.warning("gateway.refused", request_id=request_id, code=error.code, reason=error.message)
    return request_id
