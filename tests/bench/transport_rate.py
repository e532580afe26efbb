"""What a push costs: requests a second and CPU per request of one PushClient process.

    python tests/bench/transport_rate.py [seconds] [--profile] [--sign]

The sink is another process (uvloop, httptools) on 200 ports; 4 requests in flight per port, 256 in all. On a
shared machine compare CPU us per request, not the rate.
"""

import asyncio
import cProfile
import gc
import pstats
import sys
import time
from multiprocessing import Pipe, Process
from multiprocessing.connection import Connection as Wire

import uvloop
from httptools import HttpRequestParser

from broker.core.addresses import AddressPolicy
from broker.transport.client import Answer, Deadlines, Failure, PushClient, Target, parse_endpoint
from broker.transport.signature import Signer, new_secret

PORTS = 200
PER_PORT = 4
IN_FLIGHT = 256
BODY = b'{"id": "0190b5f0-1234-7abc-8def-0123456789ab", "content": {"x": "%s"}}' % (b"y" * 500)
REPLY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nServer: sink\r\nContent-Length: 2\r\n\r\n{}"


class Sink(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.parser = HttpRequestParser(self)

    def data_received(self, data: bytes) -> None:
        self.parser.feed_data(data)

    def on_message_complete(self) -> None:
        self.transport.write(REPLY)  # type: ignore[attr-defined]  # always a Transport


async def serve(wire: Wire) -> None:
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(Sink, "127.0.0.1", 0) for _ in range(PORTS)]
    wire.send([server.sockets[0].getsockname()[1] for server in servers])
    await loop.run_in_executor(None, wire.recv)


def sink(wire: Wire) -> None:
    uvloop.run(serve(wire))


class Load:
    """Keeps PER_PORT requests going on as many ports as IN_FLIGHT allows, rotating over all ports."""

    def __init__(self, client: PushClient, targets: list[Target], *, signed: bool) -> None:
        self.client = client
        self.targets = targets
        self.signer = Signer(new_secret()) if signed else None
        self.deadlines = Deadlines()
        self.count = 0
        self.failures = 0
        self.next = 0
        self.running = True
        self.heads = [
            b"POST /hook HTTP/1.1\r\nHost: %b\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
            b"webhook-id: 0190b5f0-1234-7abc-8def-0123456789ab\r\nwebhook-timestamp: 1700000000\r\n"
            b"webhook-signature: v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=\r\n\r\n"
            % (target.origin.authority.encode(), len(BODY))
            for target in targets
        ]

    def post(self) -> None:
        index = self.next
        self.next = (index + 1) % len(self.targets)
        if self.signer is not None:
            self.signer.sign("0190b5f0-1234-7abc-8def-0123456789ab", 1_700_000_000, BODY)
        self.client.post(self.targets[index], self.heads[index], BODY, self.deadlines, self.done)

    def done(self, outcome: Answer | Failure) -> None:
        self.count += 1
        if type(outcome) is not Answer:
            self.failures += 1
        if self.running:
            self.post()


async def drive(ports: list[int], seconds: float, profile: cProfile.Profile | None, *, signed: bool) -> None:
    client = PushClient(policy=AddressPolicy(["127.0.0.0/8"]))
    targets = [parse_endpoint(f"http://127.0.0.1:{port}/hook") for port in ports]
    load = Load(client, targets, signed=signed)
    for _ in range(IN_FLIGHT):
        load.post()
    await asyncio.sleep(1)
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 50)
    if profile is not None:
        profile.enable()
    count, wall, cpu = load.count, time.monotonic(), time.process_time()
    await asyncio.sleep(seconds)
    count, wall, cpu = load.count - count, time.monotonic() - wall, time.process_time() - cpu
    if profile is not None:
        profile.disable()
    load.running = False
    failures = load.failures
    await client.aclose()
    rate, cost = count / wall, cpu / count * 1e6
    print(f"{rate:,.0f} requests/s, {cost:.2f} CPU us per request, {failures} failures")


def main() -> None:
    numbers = [argument for argument in sys.argv[1:] if not argument.startswith("-")]
    profile = cProfile.Profile() if "--profile" in sys.argv else None
    ours, theirs = Pipe()
    process = Process(target=sink, args=(theirs,), daemon=True)
    process.start()
    try:
        seconds = float(numbers[0]) if numbers else 5.0
        uvloop.run(drive(ours.recv(), seconds, profile, signed="--sign" in sys.argv))
    finally:
        ours.send(None)
        process.join(5)
    if profile is not None:
        pstats.Stats(profile).sort_stats("tottime").print_stats(25)


if __name__ == "__main__":
    main()
