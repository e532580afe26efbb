"""Which coroutine of an agent gets which message."""

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from broker.client.coroutines import require_coroutine
from broker.client.incoming import NOTICES, Arrival, Message
from broker.client.orders import OrderWork
from broker.client.outcomes import Failed, Outcome, Processed
from broker.client.ways.way import OnPresence

Handler = Callable[[Message], Awaitable[Any]]  # returns any JSON
Decorated = TypeVar("Decorated", bound=Callable[..., Awaitable[Any]])


class Handlers:
    """Handlers by message type; one may take whatever has none of its own. Work orders go another way."""

    def __init__(self) -> None:
        self._by_type: dict[str, Handler] = {}
        self._default: Handler | None = None
        self.orders = OrderWork()
        self.on_presence: OnPresence | None = None

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

    def hear_presence(self, handler: OnPresence) -> None:
        """Set who hears of agents that come and go. Raises: TypeError, ValueError for a second one."""
        require_coroutine(handler)
        if self.on_presence is not None:
            raise ValueError("there is a handler for presence already")
        self.on_presence = handler

    def find(self, message_type: str) -> Handler | None:
        return self._by_type.get(message_type, self._default)


def unhandled(arrival: Arrival) -> Outcome:
    """Return what becomes of a message nobody has a handler for: a notice is read, anything else fails."""
    if arrival.message_type in NOTICES or arrival.reply_to is not None:
        return Processed()
    return Failed(f"no handler for messages of type {arrival.message_type!r}")
