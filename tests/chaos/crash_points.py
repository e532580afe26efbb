"""Named places in the product at which a child kills itself; it has no hooks, its functions are wrapped.

`before`: when the function is called, nothing of it done. `after`: when it has returned. `soon`: a few
milliseconds after it has returned, when what it wrote has left the process. `reply`: when Redis has answered
the call, and nobody here knows yet. A name that is no longer there is an error, not a point that never fires.
"""

import asyncio
import functools
import inspect
import os
import signal
from collections.abc import Callable
from importlib import import_module
from typing import Any, Final, NamedTuple

SOON_S: Final = 0.003

Passage = Callable[[], None]
"""Called at every passage of a point."""
Wrapped = Callable[..., Any]  # Any: whatever the product's function takes and returns


class CrashPoint(NamedTuple):
    """`place`: module:attribute path. `reach`: a passage up to this one is where it ends."""

    role: str
    place: str
    moment: str
    reach: int = 40


class NoSuchPoint(Exception):
    """What the point names is not in the product: it was renamed, and the table below has to follow."""


_PUBLISH = "broker.streams.ingress:_LaneQueue._send"
_PUBLISHED = "broker.streams.ingress:_LaneQueue._conclude"
_ROUTE = "workers.moving:call_route"
_POST = "broker.transport.client:PushClient.post"
_SETTLE = "workers.delivery.settler:call_settle"
_COMMIT = "broker.store.record:write"
_CUT = "broker.streams.ledger:LedgerReader.cut"
_FORWARD = "workers.router:Router._forward"
_WAKE = "workers.keeping.schedule:Schedule.look"
_RELAY = "workers.keeping.outbox:OutboxRelay.relay"

POINTS: Final = {
    "before publish": CrashPoint("gateway", _PUBLISH, "before"),
    "after publish": CrashPoint("gateway", _PUBLISHED, "before"),
    "before route": CrashPoint("worker", _ROUTE, "before"),
    "after route": CrashPoint("worker", _ROUTE, "reply"),
    "before forward": CrashPoint("worker", _FORWARD, "before", 20),
    "after forward": CrashPoint("worker", _FORWARD, "after", 20),
    "before POST": CrashPoint("worker", _POST, "before"),
    "after POST": CrashPoint("worker", _POST, "soon"),
    "after the answer to a POST": CrashPoint(
        "worker", "workers.delivery.dispatch:Dispatch._answered", "before"
    ),
    "before settle": CrashPoint("worker", _SETTLE, "before"),
    "after settle": CrashPoint("worker", _SETTLE, "reply"),
    "after take-over": CrashPoint("worker", "workers.delivery.collector:Collector.take_over", "after", 3),
    "before commit": CrashPoint("recorder", _COMMIT, "before"),
    "after commit": CrashPoint("recorder", _COMMIT, "after"),
    "before cut": CrashPoint("recorder", _CUT, "before"),
    "after cut": CrashPoint("recorder", _CUT, "after"),
    "before wake": CrashPoint("keeper", _WAKE, "before"),
    "after wake": CrashPoint("keeper", _WAKE, "after"),
    "before relay": CrashPoint("keeper", _RELAY, "before", 20),
    "after relay": CrashPoint("keeper", _RELAY, "after", 20),
}


def of_role(role: str) -> list[str]:
    """Return the names of a role's points, in their order."""
    return [name for name, point in POINTS.items() if point.role == role]


def install(point: CrashPoint, passage: Passage) -> None:
    """Wrap what a point names. Raises: NoSuchPoint."""
    owner, name = _owner_of(point.place)
    original = inspect.getattr_static(owner, name)
    if not callable(original):
        raise NoSuchPoint(f"{point.place}: not a function")
    setattr(owner, name, _WRAPPERS[point.moment](original, passage))


def kill_at(nth: int, tell: Callable[[], None]) -> Passage:
    """Return a passage that ends this process at the nth time, having told."""
    left = nth

    def passage() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            tell()
            os.kill(os.getpid(), signal.SIGKILL)

    return passage


def _owner_of(place: str) -> tuple[Any, str]:  # Any: a module or a class
    module, _, path = place.partition(":")
    *parents, name = path.split(".")
    try:
        owner: Any = import_module(module)  # Any: as above
        for parent in parents:
            owner = getattr(owner, parent)
        inspect.getattr_static(owner, name)
    except (ImportError, AttributeError) as error:
        raise NoSuchPoint(f"{place}: {error}") from None
    return owner, name


def _before(original: Wrapped, passage: Passage) -> Wrapped:
    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:  # Any: as in Wrapped
        passage()
        return original(*args, **kwargs)

    return wrapped


def _after(original: Wrapped, passage: Passage) -> Wrapped:
    @functools.wraps(original)
    async def wrapped(*args: Any, **kwargs: Any) -> Any:  # Any: as in Wrapped
        result = await original(*args, **kwargs)
        passage()
        return result

    if not inspect.iscoroutinefunction(original):
        raise NoSuchPoint(f"{original.__qualname__}: no coroutine, so it is not over when it returns")
    return wrapped


def _soon(original: Wrapped, passage: Passage) -> Wrapped:
    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:  # Any: as in Wrapped
        asyncio.get_running_loop().call_later(SOON_S, passage)
        return original(*args, **kwargs)

    return wrapped


def _reply(original: Wrapped, passage: Passage) -> Wrapped:
    if "on_reply" not in inspect.signature(original).parameters:
        raise NoSuchPoint(f"{original.__qualname__}: takes no `on_reply`")

    @functools.wraps(original)
    def wrapped(*args: Any, on_reply: Callable[[Any], None], **kwargs: Any) -> Any:  # Any: as in Wrapped
        def answered(reply: Any) -> None:  # Any: as Redis sends it
            passage()
            on_reply(reply)

        return original(*args, on_reply=answered, **kwargs)

    return wrapped


_WRAPPERS: Final = {"before": _before, "after": _after, "soon": _soon, "reply": _reply}
