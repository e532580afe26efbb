"""The ceiling: what the same parts can do when nothing is promised.

One process, one loop: read a stream, POST every message to the sink, delete the entry, copy a row and an
attempt row per message into plain tables, in the batches that gather while the last one commits. No routing,
no mailboxes, no signatures, no retries, no deduplication, no metrics. Same servers, same sink, same
publisher, same messages as the product, in the same run; the product's figure is worth what it is beside
this one.
"""

import asyncio
import gc
from datetime import UTC, datetime
from importlib.resources import files
from time import monotonic_ns
from typing import Any, Final

import asyncpg
import msgspec
import uvloop

from broker.bench.bare import Port, RedisWire
from broker.bench.control import Nothing, obey
from schema.codec import decode_stored_envelope
from schema.message import Envelope

STREAM: Final = "bench:ceiling"
READ_COUNT: Final = 16
"""Entries per read; an entry holds up to 64 messages."""
QUEUED_MAX: Final = 2_048
"""Messages read and not yet answered; more would only wait in memory instead of on the stream."""
ROWS_MAX: Final = 1_000
"""Rows per transaction, as the product's recorder."""


class CeilingOrder(msgspec.Struct, kw_only=True, omit_defaults=True):
    """`do`: open | run (until `count` messages are committed) | close."""

    do: str
    redis_url: str = ""
    database_url: str = ""
    ports: list[int] = msgspec.field(default_factory=list)
    count: int = 0


class CeilingReport(msgspec.Struct):
    """When the last row was committed, on CLOCK_MONOTONIC."""

    committed_ns: int


class Entry(msgspec.Struct, gc=False):
    """A stream entry and how many of its messages are still on their way."""

    id: bytes
    left: int


class Ceiling:
    """The loop and its connections."""

    def __init__(self, redis: RedisWire, writes: RedisWire, database: Any) -> None:  # asyncpg has no types
        self._redis = redis
        self._writes = writes
        self._database = database
        self._ports: list[Port] = []
        self._in_flight = 0
        self._answered: list[Envelope] = []
        self._finished: list[bytes] = []
        self._progress = asyncio.Event()
        self._cursor: bytes | str = "0-0"

    @classmethod
    async def open(cls, order: CeilingOrder) -> "Ceiling":
        """Connect to everything and make the tables."""
        database = await asyncpg.connect(order.database_url)
        await database.execute(_sql("ceiling_create"))
        redis, writes = [await RedisWire.connect(order.redis_url) for _ in range(2)]
        ceiling = cls(redis, writes, database)
        await writes.call("DEL", STREAM)
        for number in order.ports:
            port = Port(number, ceiling._answer)
            await port.open()
            ceiling._ports.append(port)
        gc.freeze()
        return ceiling

    async def run(self, count: int) -> CeilingReport:
        """Move `count` messages from the stream to the sink and into the tables."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._read(count))
            record = tasks.create_task(self._record(count))
        return CeilingReport(record.result())

    async def close(self) -> None:
        """Remove the tables and the stream, close every connection."""
        for port in self._ports:
            port.close()
        await self._writes.call("DEL", STREAM)
        await self._database.execute(_sql("ceiling_drop"))
        await self._database.close()
        self._redis.close()
        self._writes.close()

    async def _read(self, count: int) -> None:
        number = 0
        while number < count:
            while self._in_flight > QUEUED_MAX:
                await self._wait()
            reply = await self._redis.call(
                "XREAD", "COUNT", READ_COUNT, "BLOCK", 100, "STREAMS", STREAM, self._cursor
            )
            for entry_id, fields in reply[0][1] if reply else ():
                self._cursor = entry_id
                bodies = fields[1::2]
                entry = Entry(entry_id, len(bodies))
                self._in_flight += len(bodies)
                for body in bodies:
                    envelope = decode_stored_envelope(body)
                    self._ports[number % len(self._ports)].post(envelope.id, body, (entry, envelope))
                    number += 1

    def _answer(self, token: tuple[Entry, Envelope]) -> None:
        entry, envelope = token
        entry.left -= 1
        if not entry.left:
            self._finished.append(entry.id)
        self._answered.append(envelope)
        self._in_flight -= 1
        self._progress.set()

    async def _record(self, count: int) -> int:
        written = 0
        while written < count:
            if not self._answered:
                await self._wait()
                continue
            batch, self._answered = self._answered[:ROWS_MAX], self._answered[ROWS_MAX:]
            await self._copy(batch)
            written += len(batch)
            if self._finished:
                entries, self._finished = self._finished, []
                self._writes.call("XDEL", STREAM, *entries)
        return monotonic_ns()

    async def _copy(self, batch: list[Envelope]) -> None:
        now = datetime.now(UTC)
        messages = [
            (
                one.id,
                one.to_agent_id,
                one.message_type,
                one.priority,
                bytes(one.content).decode(),
                bytes(one.metadata).decode(),
                "delivered",
                one.hop,
                now,
                now,
            )
            for one in batch
        ]
        attempts = [(one.id, 1, "success", 200, 1, now) for one in batch]
        async with self._database.transaction():
            await self._database.copy_records_to_table(
                "messages", records=messages, schema_name="bench_ceiling"
            )
            await self._database.copy_records_to_table(
                "attempts", records=attempts, schema_name="bench_ceiling"
            )

    async def _wait(self) -> None:
        self._progress.clear()
        await self._progress.wait()


async def serve() -> None:
    """Run the ceiling's loop as the driver says, until the driver goes away."""
    ceiling: Ceiling | None = None

    async def handle(line: bytes) -> msgspec.Struct:
        nonlocal ceiling
        order = msgspec.json.decode(line, type=CeilingOrder)
        if order.do == "open":
            ceiling = await Ceiling.open(order)
        elif ceiling is None:
            raise ValueError("not open")
        elif order.do == "run":
            return await ceiling.run(order.count)
        elif order.do == "close":
            await ceiling.close()
        return Nothing()

    await obey(handle)


def _sql(name: str) -> str:
    return (files("broker.bench") / "sql" / f"{name}.sql").read_text()


if __name__ == "__main__":
    uvloop.run(serve())
