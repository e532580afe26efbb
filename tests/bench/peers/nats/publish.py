"""Publishes to JetStream; a batch is done when the server has acknowledged every message of it."""

import asyncio

import feed
import orjson
import uvloop
from stream import SUBJECT, jetstream


async def main() -> None:
    async with jetstream() as js:

        async def publish(messages: list[feed.Message]) -> None:
            sent = [await js.publish_async(SUBJECT, orjson.dumps(message)) for message in messages]
            await asyncio.gather(*sent)

        await feed.serve(publish, batch=64, calls=8)


if __name__ == "__main__":
    uvloop.run(main())
