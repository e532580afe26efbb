"""A connection whose user can be made to die around its next script call."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from enum import Enum
from functools import partial
from typing import Any

from broker.streams.connection import Argument, Connection, OnReply, Reply
from broker.streams.scripts import Script
from schema.errors import StreamsUnavailable


class Crash(Enum):
    """When the owner dies: not at all, before its call was done, or after it, before it heard of that."""

    NONE = "none"
    BEFORE = "before"
    AFTER = "after"


class Wire(Connection):
    """Leads to another connection. A death is an answer that never comes: StreamsUnavailable in its place."""

    def __init__(self, inner: Connection) -> None:
        super().__init__()
        self._inner = inner
        self.crash = Crash.NONE
        self.calls_before = 0
        """Calls that go well before that."""
        self.overtaken_by: Callable[[], Awaitable[Any]] | None = None
        """What is done between the moment the next call is sent and the one in which it is done."""

    def call(self, arguments: Sequence[Argument], on_reply: OnReply) -> None:
        self._inner.call(arguments, on_reply)

    def run(
        self, script: Script, keys: Sequence[Argument], arguments: Sequence[Argument], on_reply: OnReply
    ) -> None:
        if self.overtaken_by is not None:
            others, self.overtaken_by = self.overtaken_by(), None
            again = partial(self.run, script, keys, arguments, on_reply)
            asyncio.ensure_future(others).add_done_callback(lambda done: (done.result(), again()))
            return
        if self.calls_before:
            self.calls_before -= 1
            self._inner.run(script, keys, arguments, on_reply)
            return
        crash, self.crash = self.crash, Crash.NONE

        def unheard(_: Reply) -> None:
            on_reply(StreamsUnavailable("died before it heard of it"))

        if crash is Crash.BEFORE:
            self._loop.call_soon(unheard, None)
        else:
            self._inner.run(script, keys, arguments, on_reply if crash is Crash.NONE else unheard)

    @property
    def is_open(self) -> bool:
        return self._inner.is_open

    async def close(self) -> None:
        """Leave the inner one open: others use it."""
