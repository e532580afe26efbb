"""Publishes to a Redis stream with redis-py: a pipeline per batch, an entry per message."""

import os

import feed
import msgspec
import uvloop
from redis.asyncio import Redis

STREAM = "messages"


async def main() -> None:
    redis = Redis.from_url(os.environ["REDIS_URL"])

    async def publish(messages: list[feed.Message]) -> None:
        async with redis.pipeline(transaction=False) as pipeline:
            for message in messages:
                pipeline.xadd(STREAM, {"data": msgspec.json.encode(message)})
            await pipeline.execute()

    await feed.serve(publish, batch=64, calls=8)
    await redis.aclose()


if __name__ == "__main__":
    uvloop.run(main())
