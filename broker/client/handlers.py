"""Which coroutine of an agent gets which message."""

from collections.abc import Awaitable, Callable
from inspect import iscoroutinefunction
from typing import Any, TypeVar

from broker.client.incoming import NOTICES, Arrival, Message
from broker.client.outcomes import Failed, Outcome, Processed

Handler = Callable[[Message], Awaitable[Any]]  # returns any JSON
Decorated = TypeVar("Decorated", bound=Callable[..., Awaitable[Any]])


class Handlers:
    """Handlers by message type; one may take whatever has none of its own."""

    def __init__(self) -> None:
        self._by_type: dict[str, Handler] = {}
        self._default: Handler | None = None

    def add(self, message_type: str | None, handler: Handler) -> None:
        """Give a type (None: all others) its handler. Raises: TypeError, ValueError for a second one."""
        require_coroutine(handler)
        if message_type is None:
            if self._default is not None:
                raise ValueError("there is a default handler already")
            self._default = handler
        elif message_type in self._by_type:
            raise ValueError(f"there is a handler for {message_type!r} already")
        else:
            self._by_type[message_type] = handler

    def find(self, message_type: str) -> Handler | None:
        return self._by_type.get(message_type, self._default)

    def __contains__(self, message_type: str) -> bool:
        return message_type in self._by_type


def require_coroutine(handler: object) -> None:
    """Raises: TypeError for a plain function, which would hold up every other message."""
    if not iscoroutinefunction(handler) and not iscoroutinefunction(getattr(handler, "__call__", None)):  # noqa: B004
        raise TypeError(f"a handler is an async function, {handler!r} is not")


def unhandled(arrival: Arrival) -> Outcome:
    """Return what becomes of a message nobody has a handler for: a notice is read, anything else fails."""
    if arrival.message_type in NOTICES or arrival.reply_to is not None:
        return Processed()
    return Failed(f"no handler for messages of type {arrival.message_type!r}")
