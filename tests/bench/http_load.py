"""Load over HTTP: one lean process that keeps connections busy with prepared requests, or paces them.

Requests are bytes made before the clock starts; replies are parsed for their status and nothing more, so that
the generator costs a few microseconds a request and what is measured is the server. Flat out every connection
has one request under way. Paced (an open loop), a request is meant to leave at an exact time and its latency
counts from then; it waits here while every connection is busy, and that counts too.
"""

import asyncio
import itertools
from collections import Counter, deque
from contextlib import suppress
from time import monotonic_ns, process_time
from typing import Final

import msgspec
import uvloop
from httptools import HttpResponseParser

from broker.bench.control import Nothing, obey
from broker.bench.pace import Schedule
from broker.bench.ticks import ticking

MARK: Final = b"########"
"""Stands in a prepared request for its number."""
_numbers: Final = itertools.count()
ANSWERED_S: Final = 90.0
"""A run without its last reply ends after this; the statuses then say how many there were."""
LEAD_NS: Final = 50_000_000
"""The first request of a paced run is due this long after the order, so that it does not begin late."""


class HttpOrder(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`do`: open (`connections` to `host`:`port`; connection n sends `requests` n, n + connections, ... in
    turn) | run (`count` requests, `rate` a second or 0 for flat out) | close."""

    do: str
    host: str = ""
    port: int = 0
    connections: int = 0
    requests: list[str] = msgspec.field(default_factory=list)
    count: int = 0
    rate: int = 0


class HttpReport(msgspec.Struct, kw_only=True):
    """How one run went. `cpu_us`: what a request cost this process."""

    seconds: float
    cpu_us: float
    statuses: dict[str, int]
    latencies_us: list[int]


class Line(asyncio.Protocol):
    """A connection with at most one request under way."""

    def __init__(self, run: "HttpLoad", requests: list[bytes]) -> None:
        self._run = run
        self._requests = requests
        self._next = 0
        self._due_ns = 0
        self._parser = HttpResponseParser(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def send(self, due_ns: int) -> None:
        """Send the next request, which was meant to leave at `due_ns`."""
        self._due_ns = due_ns
        # No two requests say the same: the broker takes agents that repeat themselves for a loop.
        request = self._requests[self._next].replace(MARK, b"%08d" % next(_numbers))
        self._next = (self._next + 1) % len(self._requests)
        self._transport.write(request)  # type: ignore[attr-defined]  # always a Transport

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_message_complete(self) -> None:
        self._run.answered(self, self._parser.get_status_code(), monotonic_ns() - self._due_ns)

    def connection_lost(self, exc: Exception | None) -> None:
        self._run.lost(exc)

    def close(self) -> None:
        self._transport.close()


class HttpLoad:
    """The connections and the run they are in."""

    def __init__(self) -> None:
        self._order = HttpOrder(do="open")
        self._lines: list[Line] = []
        self._idle: deque[Line] = deque()
        self._queue: deque[int] = deque()
        self._left = 0
        self._owed = 0
        self._statuses: Counter[int] = Counter()
        self._latencies_us: list[int] = []
        self._done: asyncio.Future[None] | None = None
        self._flat_out = True

    def open(self, order: HttpOrder) -> None:
        """Note where to send what."""
        self._order = order

    async def run(self, order: HttpOrder) -> HttpReport:
        """Connect, send what the order says, and return with the last reply, or what there is in the end."""
        await self._connect()
        self._statuses, self._latencies_us = Counter(), []
        self._owed, self._done = order.count, asyncio.get_running_loop().create_future()
        self._flat_out = not order.rate
        start_ns, cpu_s = monotonic_ns(), process_time()
        with suppress(TimeoutError):
            async with asyncio.timeout(ANSWERED_S):
                if order.rate:
                    start_ns += LEAD_NS
                    await self._paced(order, start_ns)
                else:
                    self._left = order.count
                    for line in self._lines:
                        self._send_next(line)
                    await self._done
        seconds = (monotonic_ns() - start_ns) / 1e9
        cpu_us = (process_time() - cpu_s) * 1e6 / order.count
        self.close()
        return HttpReport(
            seconds=seconds,
            cpu_us=cpu_us,
            statuses={str(status): count for status, count in self._statuses.items()},
            latencies_us=self._latencies_us,
        )

    async def _connect(self) -> None:
        """Open the connections, which a server closes while nothing is said on them."""
        loop, order = asyncio.get_running_loop(), self._order
        requests = [request.encode() for request in order.requests]
        for number in range(order.connections):
            line = Line(self, requests[number :: order.connections])
            await loop.create_connection(lambda line=line: line, order.host, order.port)  # type: ignore[misc]  # a default argument
            self._lines.append(line)

    def close(self) -> None:
        lines, self._lines = self._lines, []
        for line in lines:
            line.close()

    def answered(self, line: Line, status: int, latency_ns: int) -> None:
        """Note a reply, and let its connection go on."""
        self._statuses[status] += 1
        self._latencies_us.append(latency_ns // 1000)
        self._owed -= 1
        if self._flat_out:
            self._send_next(line)
        elif self._queue:
            line.send(self._queue.popleft())
        else:
            self._idle.append(line)
        if not self._owed and self._done is not None and not self._done.done():
            self._done.set_result(None)

    def lost(self, error: Exception | None) -> None:
        """A server that closes a connection under load is a failure of the run."""
        if self._lines and self._done is not None and not self._done.done():
            self._done.set_exception(error or ConnectionError("the server closed a connection"))

    def _send_next(self, line: Line) -> None:
        if self._left:
            self._left -= 1
            line.send(monotonic_ns())

    async def _paced(self, order: HttpOrder, start_ns: int) -> None:
        schedule = Schedule(start_ns, rate=order.rate)
        self._idle, self._queue = deque(self._lines), deque()
        sent = 0

        def tick() -> None:
            nonlocal sent
            due = min(schedule.due_by(monotonic_ns()), order.count)
            for number in range(sent, due):
                if self._idle:
                    self._idle.popleft().send(schedule.due_ns(number))
                else:
                    self._queue.append(schedule.due_ns(number))
            sent = due

        assert self._done is not None
        with ticking(start_ns, interval_ns=1_000_000_000 // order.rate, tick=tick):
            await self._done


async def serve() -> None:
    """Send as the driver says, until the driver goes away."""
    load = HttpLoad()

    async def handle(line: bytes) -> msgspec.Struct:
        order = msgspec.json.decode(line, type=HttpOrder)
        if order.do == "open":
            load.open(order)
        elif order.do == "run":
            return await load.run(order)
        elif order.do == "close":
            load.close()
        return Nothing()

    await obey(handle)


if __name__ == "__main__":
    uvloop.run(serve())
