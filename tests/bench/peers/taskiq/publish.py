"""Publishes tasks, a connection for each that is under way: taskiq has no batches."""

import asyncio

import feed
import uvloop
from tasks import broker, push


async def main() -> None:
    await broker.startup()

    async def publish(messages: list[feed.Message]) -> None:
        await asyncio.gather(*(push.kiq(message) for message in messages))

    await feed.serve(publish, batch=64, calls=1)
    await broker.shutdown()


if __name__ == "__main__":
    uvloop.run(main())
