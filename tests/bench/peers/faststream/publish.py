"""Publishes through FastStream, a pipeline per batch."""

import os

import feed
import uvloop
from faststream.redis import RedisBroker

STREAM = "messages"


async def main() -> None:
    async with RedisBroker(os.environ["REDIS_URL"], logger=None) as broker:
        redis = await broker.connect()

        async def publish(messages: list[feed.Message]) -> None:
            async with redis.pipeline(transaction=False) as pipeline:
                for message in messages:
                    await broker.publish(message, stream=STREAM, pipeline=pipeline)
                await pipeline.execute()

        await feed.serve(publish, batch=64, calls=4)


if __name__ == "__main__":
    uvloop.run(main())
