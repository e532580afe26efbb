"""Delivers the stream's messages: FastStream reads batches and acknowledges them, aiohttp pushes, asyncpg
records.

A batch is acknowledged when every message of it was pushed and its rows are committed. What could not be
pushed goes back to the end of the stream first, so that one dead endpoint does not hold up a batch for ever.
What a crashed worker left behind is claimed after a minute.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import deliver
import uvloop
from faststream import AckPolicy, FastStream
from faststream.redis import RedisBroker, StreamSub
from redis.exceptions import ResponseError

STREAM, GROUP = "messages", "delivery"
BATCH = int(os.environ.get("BATCH", "64"))
CONSUMERS = int(os.environ.get("CONSUMERS", "4"))
"""Batches in hand at a time, each read by a consumer of its own: while one waits, the others go on."""
ABANDONED_MS = 60_000

broker = RedisBroker(os.environ["REDIS_URL"], logger=None, apply_types=False)
delivery: deliver.Delivery


@asynccontextmanager
async def lifespan() -> AsyncIterator[None]:
    global delivery
    redis = await broker.connect()
    with suppress(ResponseError):  # the group exists
        await redis.xgroup_create(STREAM, GROUP, id="0", mkstream=True)
    async with deliver.delivery() as delivery:
        yield


async def push(messages: list[dict[str, Any]]) -> None:
    outcomes = await asyncio.gather(*map(delivery.deliver, messages), return_exceptions=True)
    for message, outcome in zip(messages, outcomes, strict=True):
        if isinstance(outcome, deliver.Undelivered):
            await broker.publish(message, stream=STREAM)
        elif outcome is not None:
            raise outcome


async def push_one(message: dict[str, Any]) -> None:
    await push([message])


def source(consumer: str, **options: Any) -> StreamSub:
    return StreamSub(STREAM, group=GROUP, consumer=f"{os.getpid()}-{consumer}", **options)


for number in range(CONSUMERS):
    batches = source(str(number), batch=True, max_records=BATCH)
    broker.subscriber(stream=batches, ack_policy=AckPolicy.NACK_ON_ERROR)(push)
abandoned = source("claims", min_idle_time=ABANDONED_MS, polling_interval=1_000)
broker.subscriber(stream=abandoned, ack_policy=AckPolicy.NACK_ON_ERROR)(push_one)

if __name__ == "__main__":
    uvloop.run(FastStream(broker, lifespan=lifespan).run())
