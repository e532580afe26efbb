"""The ceiling of routing: one loop that moves entries of one stream into mailboxes, and decides nothing.

It reads, hands every message to the next mailbox in turn, and moves as many at a time as the product does,
by the least script that keeps a message from being in two places. No envelope is decoded, nothing is looked
up, deduplicated, fenced or told to a record.
"""

import asyncio
from collections import deque
from time import monotonic_ns
from typing import Any, Final

import msgspec
import uvloop

from broker.bench.bare import RedisWire
from broker.bench.control import Nothing, obey

STREAM: Final = "bench:{bare}:ingress"
MAILBOX: Final = "bench:{bare}:inbox:"
READ_COUNT: Final = 2
"""Entries a call moves; of 64 messages each that is as much as the product's route call."""
CALLS_IN_FLIGHT: Final = 3
"""As many as the product's."""
SCRIPT: Final = """
for i = 2, #KEYS do redis.call('XADD', KEYS[i], '*', 'm', ARGV[i - 1]) end
return redis.call('XDEL', KEYS[1], unpack(ARGV, #KEYS))
"""


class BareOrder(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`do`: open | run (until `count` messages are moved, to so many `mailboxes`)."""

    do: str
    redis_url: str = ""
    count: int = 0
    mailboxes: int = 0


class BareReport(msgspec.Struct):
    """How long moving took."""

    seconds: float


async def move(wire: RedisWire, reader: RedisWire, digest: str, order: BareOrder) -> BareReport:
    """Move so many messages."""
    began_ns, moved, cursor = monotonic_ns(), 0, b"0-0"
    mailboxes = [f"{MAILBOX}{number}" for number in range(order.mailboxes)]
    under_way: deque[asyncio.Future[Any]] = deque()  # a reply is whatever the command answers
    while moved < order.count:
        reply = await reader.call("XREAD", "COUNT", READ_COUNT, "BLOCK", 100, "STREAMS", STREAM, cursor)
        entries = reply[0][1] if reply else []
        messages = [value for _, fields in entries for value in fields[1::2]]
        if not messages:
            continue
        cursor = entries[-1][0]
        targets = [mailboxes[(moved + number) % len(mailboxes)] for number in range(len(messages))]
        call = wire.call(
            "EVALSHA", digest, 1 + len(targets), STREAM, *targets, *messages, *(entry for entry, _ in entries)
        )
        under_way.append(asyncio.ensure_future(call))
        moved += len(messages)
        while len(under_way) >= CALLS_IN_FLIGHT:
            await under_way.popleft()
    await asyncio.gather(*under_way)
    return BareReport((monotonic_ns() - began_ns) / 1e9)


async def serve() -> None:
    """Move messages as the driver says, until the driver goes away."""
    wires: list[RedisWire] = []
    digest = ""

    async def handle(line: bytes) -> msgspec.Struct:
        nonlocal digest
        order = msgspec.json.decode(line, type=BareOrder)
        if order.do == "open":
            wires.extend([await RedisWire.connect(order.redis_url) for _ in range(2)])
            digest = (await wires[0].call("SCRIPT", "LOAD", SCRIPT)).decode()
            return Nothing()
        return await move(wires[0], wires[1], digest, order)

    await obey(handle)
    for wire in wires:
        wire.close()


if __name__ == "__main__":
    uvloop.run(serve())
