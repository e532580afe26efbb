"""Stands in for worker and recorder where a test wants a gateway alone: takes what was published from the
ingress streams and writes it to Postgres with the real fold, store and receipts."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from cluster import async_client_of
from msgspec import Raw
from redis.asyncio import Redis

from broker.core.fold import fold
from broker.store import partitions, record
from broker.store.pool import Pool
from broker.streams import notifications
from broker.streams.connection import Connection, open_connection
from broker.streams.keys import Keys
from broker.streams.lanes import parted
from schema.codec import decode_envelope
from schema.ledger import Event, EventKind, Receipt
from schema.message import LANES
from schema.times import from_ms


def now_ms() -> int:
    return int(time.time() * 1000)


class Recorder:
    """Records everything published as routed to its named recipient."""

    def __init__(self, redis: "Redis", connection: Connection, pool: Pool, shards: int) -> None:
        self._redis = redis
        self._connection = connection
        self._pool = pool
        self._shards = range(shards)
        self.seen: set[str] = set()
        """Messages that were published; those whose row is written are in `recorded`."""
        self.recorded: set[str] = set()
        self.tell = True
        """Whether gateways are told: pub/sub may lose a receipt."""

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for shard in self._shards:
                group.create_task(self._run_shard(Keys(shard)))

    async def _run_shard(self, keys: Keys) -> None:
        cursors = {keys.ingress[lane]: "0-0" for lane in LANES}
        task = asyncio.current_task()
        # redis-py loses a cancellation that comes as a reply does, and a task group cancels once only.
        while task is not None and not task.cancelling():
            for stream, entries in await self._redis.xread(cursors, block=200) or ():
                cursors[stream.decode()] = entries[-1][0].decode()
                # redis-py folds repeated fields into one, so entries are read again as they are.
                for entry_id, _ in entries:
                    await self._record(stream.decode(), entry_id.decode())

    async def _record(self, stream: str, entry_id: str) -> None:
        ((_, fields),) = await self._connection.send("XRANGE", stream, entry_id, entry_id)
        pairs = list(zip(fields[::2], fields[1::2], strict=True))
        waiter = next((value.decode() for name, value in pairs if name == b"w"), None)
        events = []
        for message in (one for name, value in pairs if name == b"m" for one in parted(value)):
            envelope = decode_envelope(message)
            if envelope.id in self.seen:
                continue
            self.seen.add(envelope.id)
            events.append(
                Event(
                    kind=EventKind.ROUTED,
                    id=envelope.id,
                    at_ms=now_ms(),
                    message=Raw(message),
                    to=envelope.to_agent_id,
                    waiter=waiter,
                )
            )
        await self.write(events)

    async def write(self, events: list[Event]) -> None:
        rows = fold(events)
        await record.write(self._pool, rows)
        self.recorded.update(event.id for event in events)
        if self.tell:
            told = [
                (gateway, Receipt(id, "recorded", progress=rows.progress.get(id)))
                for gateway, id in rows.waiting
            ]
            told += [(notifications.EVERY_GATEWAY, Receipt(id, "replied", by)) for id, by in rows.replies]
            await notifications.publish_recorded(self._connection, told, rows.pending)


@asynccontextmanager
async def recording(redis_url: str, pool: Pool, *, shards: int = 2) -> AsyncIterator[Recorder]:
    """Record while the context is open."""
    await partitions.ensure_day(pool, from_ms(now_ms()).date())
    async with (
        async_client_of(redis_url) as redis,
        await open_connection(redis_url, name="recording") as link,
    ):
        recorder = Recorder(redis, link, pool, shards)
        task = asyncio.create_task(recorder.run())
        try:
            yield recorder
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
