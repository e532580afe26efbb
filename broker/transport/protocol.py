"""One HTTP/1.1 connection: writes a request, reads its response, says how it ended. One request at a time.

Theory of operation: a connection is idle (`push` is None), busy (`push` is set) or closed. `send` makes it
busy; the response, a bound, a deadline (kept by the owner's sweep) or the loss of the connection makes it
idle or closed, and hands the push back to the owner exactly once.

This is the hot path of the product: no task, future, timer or header callback per request, and no parser
where the head of the response is known.
"""

import asyncio
from time import monotonic_ns
from typing import Final, Protocol, cast

from broker.transport.endpoint import Origin
from broker.transport.outcome import Answer, FailureKind, Push, Trouble, clock_ms
from broker.transport.response import ResponseReader, recognise

_JOIN_BYTES_MAX: Final = 64 * 1024
"""Up to here one copied buffer is cheaper than two writes."""


class Owner(Protocol):
    """Who a connection reports to."""

    def made(self, connection: "Connection") -> None:
        """The connection is open."""

    def answered(self, connection: "Connection", push: Push, answer: Answer) -> None:
        """The push has its answer; the connection is idle again unless `closing`."""

    def broke(self, push: Push, trouble: Trouble) -> None:
        """The push has none; its connection is closing."""

    def went_stale(self, push: Push) -> None:
        """The connection had been idle, and was gone before a byte of the response came."""

    def lost(self, connection: "Connection") -> None:
        """The connection is gone. Comes last, once for every one that was made."""


class Connection(asyncio.Protocol):
    """See the module's docstring. `deadline_ms` is what the owner's sweep holds a busy connection to."""

    __slots__ = (
        "_owner",
        "_reader",
        "_served",
        "_transport",
        "born_ms",
        "closing",
        "deadline_ms",
        "idle_since_ms",
        "origin",
        "push",
    )

    def __init__(self, owner: Owner, origin: Origin) -> None:
        self.origin: Final = origin
        self.push: Push | None = None
        self.closing = False
        self.born_ms = 0
        self.deadline_ms = 0
        self.idle_since_ms = 0
        self._owner: Final = owner
        self._reader: Final = ResponseReader()
        self._served = False
        self._transport: asyncio.Transport | None = None

    def send(self, push: Push, now_ms: int) -> bool:
        """Write the request, unless the connection is closing, as far as anybody knows; tell which.

        Only on an idle connection: HTTP/1.1 pipelining is never used.
        """
        transport = self._transport
        if self.closing or transport is None or transport.is_closing():
            return False
        assert self.push is None
        self.push = push
        first_byte_ms = now_ms + push.deadlines.first_byte_ms
        self.deadline_ms = first_byte_ms if first_byte_ms < push.ends_ms else push.ends_ms
        if len(push.body) <= _JOIN_BYTES_MAX:
            transport.write(push.head + push.body)
        else:
            transport.writelines((push.head, push.body))
        return True

    def fail(self, trouble: Trouble) -> None:
        """Give up on the request under way, if there is one, and close."""
        push = self.push
        self.push = None
        self.close()
        if push is not None:
            self._owner.broke(push, trouble)

    def time_out(self) -> None:
        """Fail the request under way for its deadline, saying how far it got."""
        if self._reader.received_bytes == 0:
            message = "no response within the time allowed"
        elif self._reader.status == 0:
            message = "no complete response head within the time allowed"
        else:
            message = "the response did not end within the time allowed"
        self.fail(Trouble(FailureKind.TIMEOUT, message))

    def close(self) -> None:
        """Close at once. Not gracefully: a peer that never answers a TLS goodbye would hold the socket."""
        self.closing = True
        if self._transport is not None:
            self._transport.abort()

    def abandon(self) -> None:
        """Close a connection whose opening was cut off. The loop may have made it and then, closing it by
        itself, not tell that it is lost (uvloop does that): to its owner it would stay open for ever."""
        self.close()
        self._owner.lost(self)

    # --- asyncio.Protocol ---------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # what create_connection always makes
        self.born_ms = clock_ms()
        self._owner.made(self)

    def data_received(self, data: bytes) -> None:
        push = self.push
        if push is None:
            # Nobody asked: the 408 of an impatient server, or an attempt to answer the next request early.
            self.close()
            return
        reader = self._reader
        if not reader.received_bytes and (known := recognise(data)) is not None:
            status, body = known
            now_ms = monotonic_ns() // 1_000_000  # `clock_ms`, without a call
            self._settle(push, Answer(status, None, body, now_ms - push.started_ms, now_ms), True)
            return
        trouble = reader.feed(data)
        if trouble is not None:
            self.fail(trouble)
        elif reader.complete:
            self._settle_read(push)
        else:
            self.deadline_ms = push.ends_ms

    def connection_lost(self, exc: Exception | None) -> None:
        self.closing = True
        self._transport = None
        push = self.push
        if push is not None:
            self._end(push, clean=exc is None)
        self._reader.release()
        self._owner.lost(self)

    # --- how a request ends -------------------------------------------------------------------------

    def _settle(self, push: Push, answer: Answer, reusable: bool) -> None:
        """Report a complete response and become idle, or close if anything about it was odd."""
        # An endpoint may answer (413) before it has read a large body; the rest must not lead the next one.
        if not reusable or (len(push.body) > _JOIN_BYTES_MAX and self._is_sending):
            self.close()
        self.push = None
        self._served = True
        self.idle_since_ms = answer.ended_ms
        self._owner.answered(self, push, answer)

    def _settle_read(self, push: Push) -> None:
        """Report what the reader has read."""
        reader = self._reader
        now_ms = clock_ms()
        answer = Answer(reader.status, reader.retry_after, reader.body, now_ms - push.started_ms, now_ms)
        reusable = reader.reusable
        reader.reset()
        self._settle(push, answer, reusable)

    def _end(self, push: Push, *, clean: bool) -> None:
        reader = self._reader
        if clean:
            reader.end()
        if reader.complete:
            self._settle_read(push)
        elif reader.received_bytes:
            self.fail(Trouble(FailureKind.RESET, "connection closed in the middle of the response"))
        elif self._served and not push.fresh:
            self.push = None
            self._owner.went_stale(push)
        else:
            self.fail(Trouble(FailureKind.RESET, "connection closed before a response"))

    @property
    def _is_sending(self) -> bool:
        return self._transport is None or self._transport.get_write_buffer_size() > 0
