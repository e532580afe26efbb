"""The receiver: one process, many ports, every POST answered 200 and counted.

It shares the machine with what is measured, so it is as lean as Python gets: no HTTP library, one read and
one write per packet, nothing of the event loop in between. It counts requests, distinct `webhook-id`s and
repeated ones; where the body holds `sent_ns` (CLOCK_MONOTONIC, the same for every process of a machine) it
keeps the time from there to the answer; it checks the signature of one request in SAMPLE.
"""

import asyncio
import select
import socket
from array import array
from contextlib import suppress
from time import monotonic_ns, time
from typing import Final

import msgspec
import uvloop

from broker.bench.control import Nothing, obey
from broker.bench.figures import Latencies, summarise
from broker.bench.requests import cut, header, is_signed, path_of, sent_ns_of

OK: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
SAMPLE: Final = 64
"""One signature in so many is checked: seen in every run, invisible in the CPU figures."""
BACKLOG: Final = 1024
EVENTS_MAX: Final = 256
READ_BYTES: Final = 16_384


class SinkOrder(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`do`: listen (on `ports` ephemeral ports) | secrets (of paths) | reset | count | report."""

    do: str
    ports: int = 0
    secrets: dict[str, str] = msgspec.field(default_factory=dict)


class Ports(msgspec.Struct):
    ports: list[int]


class SinkReport(msgspec.Struct, kw_only=True):
    """What arrived since the last reset. Times are CLOCK_MONOTONIC."""

    requests: int
    distinct: int
    duplicates: int
    verified: int
    forged: int
    first_ns: int
    last_ns: int
    latencies: Latencies = msgspec.field(default_factory=Latencies)


class Tally:
    """Everything that is counted, for all connections together."""

    def __init__(self) -> None:
        self.secrets: dict[bytes, str] = {}
        self.reset()

    def reset(self) -> None:
        self.requests = self.duplicates = self.verified = self.forged = 0
        self.first_ns = self.last_ns = 0
        self.ids: set[bytes] = set()
        self.latencies_us = array("q")

    def take(self, data: bytes) -> tuple[int, int]:
        """Count the whole requests in the data; return how many, and where the rest begins."""
        now_ns = monotonic_ns()
        count = start = 0
        while (request := cut(data, start)) is not None:
            head, body, start = request
            self._count(head, body, now_ns)
            count += 1
        return count, start

    def report(self, *, whole: bool) -> SinkReport:
        """Return the counts; with `whole` also the percentiles, which cost a sort."""
        return SinkReport(
            requests=self.requests,
            distinct=len(self.ids),
            duplicates=self.duplicates,
            verified=self.verified,
            forged=self.forged,
            first_ns=self.first_ns,
            last_ns=self.last_ns,
            latencies=summarise(self.latencies_us) if whole else Latencies(),
        )

    def _count(self, head: bytes, body: bytes, now_ns: int) -> None:
        self.requests += 1
        self.last_ns = now_ns
        if self.requests == 1:
            self.first_ns = now_ns
        webhook_id = header(head, b"webhook-id")
        if webhook_id is not None:
            known = len(self.ids)
            self.ids.add(webhook_id)
            self.duplicates += len(self.ids) == known
        sent_ns = sent_ns_of(body)
        if sent_ns:
            self.latencies_us.append((now_ns - sent_ns) // 1000)
        if self.secrets and self.requests % SAMPLE == 0:
            self._check(head, body)

    def _check(self, head: bytes, body: bytes) -> None:
        secret = self.secrets.get(path_of(head))
        if secret is None:
            return
        if is_signed(secret, head, body, now_s=int(time())):
            self.verified += 1
        else:
            self.forged += 1


class Receiver:
    """Every connection, on one epoll of its own: what is readable is read, answered and counted in one go.

    A protocol object per connection costs the loop some 6 us a request, which the machine that is measured
    would pay. An answer that does not fit the socket's buffer, which asks for hundreds of pipelined requests
    whose answers nobody reads, ends the connection.
    """

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._listening: dict[int, socket.socket] = {}
        self._open: dict[int, socket.socket] = {}
        self._rest: dict[int, bytes] = {}
        """What came of a request that is not whole yet."""
        self._epoll = select.epoll()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self._epoll.fileno(), self._ready)

    def listen(self, ports: int) -> list[int]:
        """Listen on so many ephemeral ports of the loopback and return them."""
        made = [socket.create_server(("127.0.0.1", 0), backlog=BACKLOG) for _ in range(ports)]
        for one in made:
            one.setblocking(False)
            self._listening[one.fileno()] = one
            self._epoll.register(one.fileno(), select.EPOLLIN)
        return [int(one.getsockname()[1]) for one in made]

    def close(self) -> None:
        self._loop.remove_reader(self._epoll.fileno())
        for one in (*self._listening.values(), *self._open.values()):
            one.close()
        self._epoll.close()

    def _ready(self) -> None:
        """Serve every socket that has something, at most once, so that orders are heard in between."""
        for number, _ in self._epoll.poll(0, EVENTS_MAX):
            connection = self._open.get(number)
            if connection is None:
                self._accept(self._listening[number])
                continue
            try:
                self._serve(number, connection)
            except OSError:
                self._drop(number)

    def _accept(self, listening: socket.socket) -> None:
        with suppress(BlockingIOError, ConnectionError):
            connection, _ = listening.accept()
            connection.setblocking(False)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open[connection.fileno()] = connection
            self._epoll.register(connection.fileno(), select.EPOLLIN)

    def _serve(self, number: int, connection: socket.socket) -> None:
        data = connection.recv(READ_BYTES)
        if not data:
            self._drop(number)
            return
        if self._rest and number in self._rest:
            data = self._rest.pop(number) + data
        answers, stop = self._tally.take(data)
        if stop < len(data):
            self._rest[number] = data[stop:]
        if answers:
            answer = OK if answers == 1 else OK * answers
            if connection.send(answer) < len(answer):
                self._drop(number)

    def _drop(self, number: int) -> None:
        self._rest.pop(number, None)
        self._open.pop(number).close()


class Sink:
    """The listening sockets and the tally; `handle` obeys the driver."""

    def __init__(self) -> None:
        self.tally = Tally()
        self._receiver = Receiver(self.tally)

    async def handle(self, line: bytes) -> msgspec.Struct:
        """Obey one order."""
        order = msgspec.json.decode(line, type=SinkOrder)
        match order.do:
            case "listen":
                return Ports(self._receiver.listen(order.ports))
            case "secrets":
                self.tally.secrets = {path.encode(): secret for path, secret in order.secrets.items()}
            case "reset":
                self.tally.reset()
            case "count":
                return self.tally.report(whole=False)
            case "report":
                return self.tally.report(whole=True)
            case unknown:
                raise ValueError(f"unknown order {unknown}")
        return Nothing()

    def close(self) -> None:
        self._receiver.close()


async def serve() -> None:
    """Run the sink until the driver goes away."""
    sink = Sink()
    try:
        await obey(sink.handle)
    finally:
        sink.close()


if __name__ == "__main__":
    uvloop.run(serve())
