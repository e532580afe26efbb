"""Operations written once, called both ways: awaited on `AgentClient`, plainly on `Client`.

A subject (`client.agents`, `client.messages`, ...) is a class of builders. `@operation` turns a builder of
a `Request` into a method that carries it out, `@listing` a builder of a `Listing` into one that yields its
rows, `@stream` one into a method that yields events as they come. Which kind of method that is follows from
the shell the subject stands on, for type checkers too. A method taken from the class (`send = Messages.send`)
may be given to another subject.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from functools import partial, update_wrapper
from types import MethodType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar, cast, overload

from broker.client.events import StreamEvent
from broker.client.request import Listing, Request

T = TypeVar("T")
P = ParamSpec("P")


class Awaiting(ABC):
    """A shell on asyncio."""

    @abstractmethod
    async def perform(self, request: Request[T]) -> T:
        """Carry out one request. Raises: BrokerError."""

    @abstractmethod
    def walk(self, pages: Listing[T]) -> AsyncIterator[T]:
        """Yield every row, page after page. Raises: BrokerError."""

    @abstractmethod
    def listen(self, request: Request[StreamEvent]) -> AsyncIterator[StreamEvent]:
        """Yield events as they come, to the stream's end. Raises: BrokerError."""


class Blocking(ABC):
    """A shell that blocks."""

    @abstractmethod
    def perform(self, request: Request[T]) -> T:
        """Carry out one request. Raises: BrokerError."""

    @abstractmethod
    def walk(self, pages: Listing[T]) -> Iterator[T]:
        """Yield every row, page after page. Raises: BrokerError."""

    @abstractmethod
    def listen(self, request: Request[StreamEvent]) -> Iterator[StreamEvent]:
        """Yield events as they come, to the stream's end. Raises: BrokerError."""


ShellT = TypeVar("ShellT", bound=Awaiting | Blocking)


class Subject(Generic[ShellT]):
    """Operations that belong together, on one shell."""

    def __init__(self, shell: ShellT) -> None:
        self._shell: ShellT = shell


class Operation(Generic[P, T]):
    """What `@operation` leaves on the class. `name`: its operationId in the contract."""

    def __init__(self, name: str, build: Callable[Concatenate[Any, P], Request[T]]) -> None:
        self.name = name
        self._build = build
        update_wrapper(cast(Any, self), build)  # Any: typeshed wants a function here

    @overload
    def __get__(self, subject: None, owner: type) -> Self: ...
    @overload
    def __get__(
        self, subject: Subject[Awaiting], owner: type
    ) -> Callable[P, Coroutine[Any, Any, T]]: ...  # Any: a coroutine's other two
    @overload
    def __get__(self, subject: Subject[Blocking], owner: type) -> Callable[P, T]: ...
    def __get__(self, subject: Any, owner: type) -> Any:  # the overloads say which
        return self if subject is None else _bound(self, subject)

    def _call(self, subject: Any, /, *args: P.args, **kwargs: P.kwargs) -> Any:  # either kind of subject
        return subject._shell.perform(self._build(subject, *args, **kwargs))


class Pages(Generic[P, T]):
    """What `@listing` leaves on the class. `name`: its operationId in the contract."""

    def __init__(self, name: str, build: Callable[Concatenate[Any, P], Listing[T]]) -> None:
        self.name = name
        self._build = build
        update_wrapper(cast(Any, self), build)  # Any: typeshed wants a function here

    @overload
    def __get__(self, subject: None, owner: type) -> Self: ...
    @overload
    def __get__(self, subject: Subject[Awaiting], owner: type) -> Callable[P, AsyncIterator[T]]: ...
    @overload
    def __get__(self, subject: Subject[Blocking], owner: type) -> Callable[P, Iterator[T]]: ...
    def __get__(self, subject: Any, owner: type) -> Any:  # the overloads say which
        return self if subject is None else _bound(self, subject)

    def _call(self, subject: Any, /, *args: P.args, **kwargs: P.kwargs) -> Any:  # either kind of subject
        return subject._shell.walk(self._build(subject, *args, **kwargs))


class Events(Generic[P]):
    """What `@stream` leaves on the class. `name`: its operationId in the contract."""

    def __init__(
        self,
        name: str,
        build: Callable[Concatenate[Any, P], Request[StreamEvent]],  # Any: self
    ) -> None:
        self.name = name
        self._build = build
        update_wrapper(cast(Any, self), build)  # Any: typeshed wants a function here

    @overload
    def __get__(self, subject: None, owner: type) -> Self: ...
    @overload
    def __get__(self, subject: Subject[Awaiting], owner: type) -> Callable[P, AsyncIterator[StreamEvent]]: ...
    @overload
    def __get__(self, subject: Subject[Blocking], owner: type) -> Callable[P, Iterator[StreamEvent]]: ...
    def __get__(self, subject: Any, owner: type) -> Any:  # the overloads say which
        return self if subject is None else _bound(self, subject)

    def _call(self, subject: Any, /, *args: P.args, **kwargs: P.kwargs) -> Any:  # either kind of subject
        return subject._shell.listen(self._build(subject, *args, **kwargs))


def _bound(method: Any, subject: Any) -> Any:  # any of the three above, on any subject
    """Return the method of a subject; `help` and editors see the builder's signature and words."""
    return update_wrapper(partial(method._call, subject), MethodType(method._build, subject))


def operation(
    name: str,
) -> Callable[[Callable[Concatenate[Any, P], Request[T]]], Operation[P, T]]:  # Any: self
    """Make a builder of a request the method that carries it out."""

    def decorate(build: Callable[Concatenate[Any, P], Request[T]]) -> Operation[P, T]:  # Any: self
        return Operation(name, build)

    return decorate


def listing(
    name: str,
) -> Callable[[Callable[Concatenate[Any, P], Listing[T]]], Pages[P, T]]:  # Any: self
    """Make a builder of a listing the method that yields its rows."""

    def decorate(build: Callable[Concatenate[Any, P], Listing[T]]) -> Pages[P, T]:  # Any: self
        return Pages(name, build)

    return decorate


def stream(
    name: str,
) -> Callable[[Callable[Concatenate[Any, P], Request[StreamEvent]]], Events[P]]:  # Any: self
    """Make a builder of a request for a stream the method that yields its events."""

    def decorate(build: Callable[Concatenate[Any, P], Request[StreamEvent]]) -> Events[P]:  # Any: self
        return Events(name, build)

    return decorate
