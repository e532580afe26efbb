"""The push client: requests in, exactly one Answer or Failure out, over kept connections per origin.

Owns the connections: which are open, idle, being dialled; holds busy ones to their deadlines by one sweep for
all (a timer per request would cost more than the request's own bookkeeping); bounds how many are open. How
many requests an endpoint gets at a time is the caller's concern. Never follows redirects, never retries, with
one exception: `went_stale`.

Invariant: `done` is called exactly once per post, never from inside `post`, and by then the connection it
came over is idle again, so that a post made from within `done` can use it.
"""

import asyncio
import ssl
from collections import deque
from functools import partial
from time import monotonic_ns
from typing import Final

from broker.core.addresses import AddressPolicy
from broker.transport.dial import Dialler, default_tls
from broker.transport.endpoint import Origin, Target, parse_endpoint
from broker.transport.outcome import (
    Answer,
    Deadlines,
    Done,
    Failure,
    FailureKind,
    Push,
    Subject,
    Trouble,
    clock_ms,
)
from broker.transport.protocol import Connection
from broker.transport.resolver import Resolver
from schema.limits import (
    CONNECTION_AGE_MS_MAX,
    CONNECTIONS_EVICTED_AT_ONCE,
    CONNECTIONS_OPEN_MAX,
    PUSHES_WAITING_MAX,
)

__all__ = [
    "Answer",
    "Deadlines",
    "Done",
    "Failure",
    "FailureKind",
    "Origin",
    "PushClient",
    "Target",
    "parse_endpoint",
]

_SWEEP_S: Final = 0.1
"""How late a deadline may be noticed."""
_IDLE_SWEEP_EVERY: Final = 10
_CLOSE_WAIT_S: Final = 1
"""An aborted transport reports within a turn of the loop; this only guards against one that never does."""

_CANCELLED: Final = Trouble(FailureKind.CANCELLED, "the client was closed")


class PushClient:
    """Posts requests. Made inside a running loop, used from it only, ended by `aclose`.

    `in_flight` counts posts whose `done` has not been called.
    """

    def __init__(
        self,
        *,
        policy: AddressPolicy,
        tls: ssl.SSLContext | None = None,
        keep_alive_ms: int = 30_000,
        resolver: Resolver | None = None,
        connections_max: int = CONNECTIONS_OPEN_MAX,
    ) -> None:
        self.in_flight = 0
        self._loop: Final = asyncio.get_running_loop()
        self._resolver: Final = resolver or Resolver(policy)
        self._dialler: Final = Dialler(policy=policy, resolver=self._resolver, tls=tls or default_tls())
        self._keep_alive_ms: Final = keep_alive_ms
        self._connections_max: Final = connections_max
        self._idle: Final[dict[Origin, list[Connection]]] = {}
        self._open: Final[set[Connection]] = set()
        # Not a TaskGroup: dials outlive the calls that start them, and a failed one must not end the others.
        self._dials: Final[set[asyncio.Task[None]]] = set()
        self._waiting: Final[deque[Push]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._sweeps = 0
        self._closed = False
        self._all_lost: asyncio.Future[None] | None = None

    @property
    def connections(self) -> int:
        """Connections open or being opened."""
        return len(self._open) + len(self._dials)

    def post(
        self,
        target: Target,
        head: bytes,
        body: bytes,
        deadlines: Deadlines,
        done: Done[Subject],
        subject: Subject,
    ) -> None:
        """Send a request; `head` is complete, blank line included, and frames `body` by Content-Length.

        `done` gets `subject` and how it ended.
        """
        now_ms = monotonic_ns() // 1_000_000  # `clock_ms`, without a call
        push = Push(target, head, body, deadlines, done, subject, now_ms, now_ms + deadlines.total_ms)
        self.in_flight += 1
        idle = self._idle.get(target.origin)
        while idle:
            # The one used last: it is the least likely to have been closed by the peer.
            if idle.pop().send(push, now_ms):
                return
        if self._closed:
            self._loop.call_soon(self._fail, push, _CANCELLED)
        else:
            self._start(push)

    async def aclose(self) -> None:
        """Fail what is in flight with CANCELLED, close every connection and wait until they are gone."""
        self._closed = True
        if self._timer is not None:
            self._timer.cancel()
        for task in self._dials:
            task.cancel()
        if self._dials:
            await asyncio.wait(self._dials)
        while self._waiting:
            self._fail(self._waiting.popleft(), _CANCELLED)
        self._idle.clear()
        for connection in tuple(self._open):
            connection.fail(_CANCELLED)
        if self._open:
            self._all_lost = self._loop.create_future()
            await asyncio.wait((self._all_lost,), timeout=_CLOSE_WAIT_S)
        self._resolver.close()

    # --- what connections report (protocol.Owner) ----------------------------------------------------

    def made(self, connection: Connection) -> None:
        self._open.add(connection)

    def answered(self, connection: Connection, push: Push, answer: Answer) -> None:
        if not connection.closing:
            self._release(connection)
        self._finish(push, answer)

    def broke(self, push: Push, trouble: Trouble) -> None:
        self._fail(push, trouble)

    def went_stale(self, push: Push) -> None:
        """Send once more, over a fresh connection.

        The classical race of keep-alive: the peer closed an idle connection while our request was on its way.
        Whether it saw the request cannot be known; delivery is at least once, so a second copy is harmless.
        """
        push.fresh = True
        if self._closed:
            self._fail(push, _CANCELLED)
        else:
            self._start(push)

    def lost(self, connection: Connection) -> None:
        self._open.discard(connection)
        idle = self._idle.get(connection.origin)
        if idle is not None and connection in idle:
            idle.remove(connection)
        self._start_waiting()
        if self._all_lost is not None and not self._open and not self._all_lost.done():
            self._all_lost.set_result(None)

    # --- dialling -----------------------------------------------------------------------------------

    def _start(self, push: Push) -> None:
        """Dial for a push, or let it wait its turn when as many connections are open as may be."""
        if self._timer is None:
            self._timer = self._loop.call_later(_SWEEP_S, self._sweep)
        if self.connections < self._connections_max:
            task = self._loop.create_task(self._dial(push))
            self._dials.add(task)
            task.add_done_callback(partial(self._dialled, push))
            return
        if len(self._waiting) >= PUSHES_WAITING_MAX:
            trouble = Trouble(FailureKind.CONNECT, "too many pushes wait for a connection")
            self._loop.call_soon(self._fail, push, trouble)
            return
        # One eviction serves that many waiting pushes: they start when the closed connections are gone.
        if len(self._waiting) % CONNECTIONS_EVICTED_AT_ONCE == 0:
            self._evict()
        self._waiting.append(push)

    def _start_waiting(self) -> None:
        while self._waiting and not self._closed and self.connections < self._connections_max:
            self._start(self._waiting.popleft())

    def _dialled(self, push: Push, task: asyncio.Task[None]) -> None:
        self._dials.discard(task)
        # Here and not inside the task: one that is cancelled before its first step never runs at all.
        if task.cancelled():
            self._fail(push, _CANCELLED)
        self._start_waiting()

    async def _dial(self, push: Push) -> None:
        origin = push.target.origin
        result: Connection | Trouble
        try:
            result = await self._dialler.dial(origin, self, deadlines=push.deadlines, ends_ms=push.ends_ms)
        except Exception as error:  # the top of a task: whatever happened, the push must have its end
            self._report(error, "dialling failed in an unforeseen way")
            result = Trouble(FailureKind.CONNECT, f"no connection: {type(error).__name__}")
        if isinstance(result, Trouble):
            self._fail(push, result)
        elif not result.send(push, clock_ms()):
            self._fail(push, Trouble(FailureKind.RESET, "connection closed before a request was sent"))

    # --- keeping ------------------------------------------------------------------------------------

    def _release(self, connection: Connection) -> None:
        waiting = self._waiting
        if (
            waiting
            and waiting[0].target.origin == connection.origin
            and connection.send(waiting[0], clock_ms())
        ):
            waiting.popleft()
        elif waiting or connection.idle_since_ms - connection.born_ms > CONNECTION_AGE_MS_MAX:
            connection.close()
        else:
            idle = self._idle.get(connection.origin)
            if idle is None:
                self._idle[connection.origin] = [connection]
            else:
                idle.append(connection)

    def _evict(self) -> None:
        every = [connection for idle in self._idle.values() for connection in idle]
        every.sort(key=lambda connection: connection.idle_since_ms)
        for connection in every[:CONNECTIONS_EVICTED_AT_ONCE]:
            self._idle[connection.origin].remove(connection)
            connection.close()

    def _sweep(self) -> None:
        """Fail what is past its deadline, close what has been idle for long."""
        now_ms = clock_ms()
        # A look at every open connection ten times a second costs less than a set of the busy ones would.
        for connection in [one for one in self._open if one.push is not None and one.deadline_ms <= now_ms]:
            # Looked at again: `done` of another one may have changed what this one is doing.
            if connection.push is not None and connection.deadline_ms <= now_ms:
                connection.time_out()
        for push in [push for push in self._waiting if push.ends_ms <= now_ms]:
            self._waiting.remove(push)
            self._fail(push, Trouble(FailureKind.TIMEOUT, "no free connection within the time allowed"))
        self._sweeps += 1
        if self._sweeps % _IDLE_SWEEP_EVERY == 0:
            self._close_idle(now_ms - self._keep_alive_ms)
        active = self._open or self._dials or self._waiting or self._idle
        self._timer = self._loop.call_later(_SWEEP_S, self._sweep) if active and not self._closed else None

    def _close_idle(self, idle_since_ms: int) -> None:
        for origin, idle in tuple(self._idle.items()):
            # Oldest first: they are appended as they become idle.
            while idle and idle[0].idle_since_ms <= idle_since_ms:
                idle.pop(0).close()
            if not idle:
                del self._idle[origin]

    # --- ending -------------------------------------------------------------------------------------

    def _fail(self, push: Push, trouble: Trouble) -> None:
        now_ms = clock_ms()
        self._finish(push, Failure(trouble.kind, trouble.message, now_ms - push.started_ms, now_ms))

    def _finish(self, push: Push, outcome: Answer | Failure) -> None:
        self.in_flight -= 1
        try:
            push.done(push.subject, outcome)
        except Exception as error:  # a caller's fault must not close a stranger's connection or end the sweep
            self._report(error, "the callback of a push failed")

    def _report(self, error: Exception, message: str) -> None:
        self._loop.call_exception_handler({"message": message, "exception": error})
