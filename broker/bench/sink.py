"""The receiver: one process, many ports, every POST answered 200 and counted.

It shares the machine with what is measured, so it is as lean as Python gets: no HTTP library, one protocol
object per connection, one write per packet. It counts requests, distinct `webhook-id`s and repeated ones;
where the body holds `sent_ns` (CLOCK_MONOTONIC, the same for every process of a machine) it keeps the time
from there to the answer; it checks the signature of one request in SAMPLE.
"""

import asyncio
from array import array
from time import monotonic_ns, time
from typing import Final, cast

import msgspec
import uvloop

from broker.bench.control import Nothing, obey
from broker.bench.figures import Latencies, summarise
from broker.bench.requests import cut, header, is_signed, path_of, sent_ns_of

OK: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
SAMPLE: Final = 64
"""One signature in so many is checked: seen in every run, invisible in the CPU figures."""
BACKLOG: Final = 1024


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

    def take(self, head: bytes, body: bytes) -> None:
        """Count one request."""
        now_ns = monotonic_ns()
        self.requests += 1
        self.last_ns = now_ns
        if self.requests == 1:
            self.first_ns = now_ns
        webhook_id = header(head, b"webhook-id")
        if webhook_id is not None:
            if webhook_id in self.ids:
                self.duplicates += 1
            self.ids.add(webhook_id)
        sent_ns = sent_ns_of(body)
        if sent_ns:
            self.latencies_us.append((now_ns - sent_ns) // 1000)
        if self.secrets and self.requests % SAMPLE == 0:
            self._check(head, body)

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

    def _check(self, head: bytes, body: bytes) -> None:
        secret = self.secrets.get(path_of(head))
        if secret is None:
            return
        if is_signed(secret, head, body, now_s=int(time())):
            self.verified += 1
        else:
            self.forged += 1


class Receiver(asyncio.Protocol):
    """One keep-alive connection."""

    __slots__ = ("_rest", "_tally", "_transport")

    def __init__(self, tally: Tally) -> None:
        self._tally = tally
        self._rest = b""
        self._transport: asyncio.WriteTransport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.WriteTransport, transport)  # a stream connection can be written

    def data_received(self, data: bytes) -> None:
        if self._rest:
            data = self._rest + data
        start = answers = 0
        while (request := cut(data, start)) is not None:
            self._tally.take(request.head, request.body)
            answers += 1
            start = request.stop
        self._rest = data[start:]
        if answers and self._transport is not None:
            self._transport.write(OK * answers)


class Sink:
    """The listening sockets and the tally; `handle` obeys the driver."""

    def __init__(self) -> None:
        self.tally = Tally()
        self._servers: list[asyncio.Server] = []

    async def listen(self, ports: int) -> list[int]:
        """Listen on so many ephemeral ports of the loopback and return them."""
        loop = asyncio.get_running_loop()
        for _ in range(ports):
            server = await loop.create_server(lambda: Receiver(self.tally), "127.0.0.1", 0, backlog=BACKLOG)
            self._servers.append(server)
        return [server.sockets[0].getsockname()[1] for server in self._servers]

    async def handle(self, line: bytes) -> msgspec.Struct:
        """Obey one order."""
        order = msgspec.json.decode(line, type=SinkOrder)
        match order.do:
            case "listen":
                return Ports(await self.listen(order.ports))
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
        for server in self._servers:
            server.close()


async def serve() -> None:
    """Run the sink until the driver goes away."""
    sink = Sink()
    try:
        await obey(sink.handle)
    finally:
        sink.close()


if __name__ == "__main__":
    uvloop.run(serve())
