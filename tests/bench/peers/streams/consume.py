"""Reads batches of a Redis stream through a group with redis-py, acknowledges and deletes them together."""

import os
from contextlib import suppress

import drain
import uvloop
from redis.asyncio import Redis
from redis.exceptions import ResponseError

STREAM, GROUP = "messages", "delivery"
BATCH = 256


async def main() -> None:
    redis = Redis.from_url(os.environ["REDIS_URL"])
    with suppress(ResponseError):  # the group exists
        await redis.xgroup_create(STREAM, GROUP, id="0", mkstream=True)

    async def take() -> int:
        found = await redis.xreadgroup(GROUP, "one", {STREAM: ">"}, count=BATCH, block=1_000)
        if not found:
            return 0
        entries = next(iter(found.values()))[0] if isinstance(found, dict) else found[0][1]
        ids = [entry_id for entry_id, _ in entries]
        async with redis.pipeline(transaction=False) as pipeline:
            pipeline.xack(STREAM, GROUP, *ids)
            pipeline.xdel(STREAM, *ids)
            await pipeline.execute()
        return len(ids)

    await drain.serve(take)
    await redis.aclose()


if __name__ == "__main__":
    uvloop.run(main())
