"""What takes commands for Redis, whether one server or a cluster is behind it.

`call` hands over a command and a callback that runs as soon as the reply is parsed; everything else is made
of it. Every callback runs exactly once, with a reply or with an exception. Nothing repeats a command that may
have been done: only the caller deduplicates. What is known not to have been done is repeated (`NOSCRIPT`, and
on a cluster a redirection).
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, Self

from broker.streams.scripts import Script
from broker.streams.slots import Argument as Argument
from schema.errors import BrokerError

# Replies are whatever Redis sends: nested lists of bytes and ints. Typing them is the caller's business.
Reply = Any
OnReply = Callable[[Reply], None]


class Connection(ABC):
    """A way to Redis that is open. Make it with `open_connection`."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    @abstractmethod
    def call(self, arguments: Sequence[Argument], on_reply: OnReply) -> None:
        """Send a command; `on_reply` gets its reply, or the BrokerError in place of one."""

    def run(
        self, script: Script, keys: Sequence[Argument], arguments: Sequence[Argument], on_reply: OnReply
    ) -> None:
        """Run a script by its digest, loading it first where the server does not know it."""

        def answered(reply: Reply) -> None:
            if isinstance(reply, BrokerError) and reply.message.startswith("NOSCRIPT"):
                self.call(("EVAL", script.text, len(keys), *keys, *arguments), on_reply)
            else:
                on_reply(reply)

        self.call(("EVALSHA", script.digest, len(keys), *keys, *arguments), answered)

    async def send(self, *arguments: Argument) -> Reply:
        """Send a command and wait for its reply.

        Raises: BrokerError as Redis or the connection failed.
        """
        future: asyncio.Future[Reply] = self._loop.create_future()
        self.call(arguments, _resolver(future))
        return await future

    async def evaluate(self, script: Script, keys: Sequence[Argument], *arguments: Argument) -> Reply:
        """Run a script and wait for its reply. Raises: BrokerError."""
        future: asyncio.Future[Reply] = self._loop.create_future()
        self.run(script, keys, arguments, _resolver(future))
        return await future

    async def send_many(self, commands: Sequence[Sequence[Argument]]) -> list[Reply]:
        """Send commands in one write and wait for all replies. Raises: the first BrokerError among them."""
        results = await self.send_each(commands)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return results

    async def send_each(self, commands: Sequence[Sequence[Argument]]) -> list[Reply]:
        """Send commands in one write and wait for all replies; a BrokerError stands in the place of one."""
        futures: list[asyncio.Future[Reply]] = []
        for arguments in commands:
            future: asyncio.Future[Reply] = self._loop.create_future()
            self.call(arguments, _resolver(future))
            futures.append(future)
        return await asyncio.gather(*futures, return_exceptions=True)

    @property
    @abstractmethod
    def is_open(self) -> bool:
        """Whether commands still have a chance."""

    @abstractmethod
    async def close(self) -> None:
        """Close; what is still under way gets StreamsUnavailable."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _resolver(future: asyncio.Future[Reply]) -> OnReply:
    def resolve(reply: Reply) -> None:
        if future.done():
            return
        if isinstance(reply, BrokerError):
            future.set_exception(reply)
        else:
            future.set_result(reply)

    return resolve
