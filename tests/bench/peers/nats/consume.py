"""Pulls batches and acknowledges every message; the last acknowledgement of a batch waits for the server."""

from contextlib import suppress

import drain
import uvloop
from nats.errors import TimeoutError as NothingThere
from nats.js.api import ConsumerConfig
from stream import DURABLE, SUBJECT, jetstream

BATCH = 256


async def main() -> None:
    async with jetstream() as js:
        config = ConsumerConfig(max_ack_pending=10_000)
        subscription = await js.pull_subscribe(SUBJECT, durable=DURABLE, config=config)

        async def take() -> int:
            with suppress(NothingThere):
                messages = await subscription.fetch(BATCH, timeout=1)
                for message in messages[:-1]:
                    await message.ack()
                await messages[-1].ack_sync()
                return len(messages)
            return 0

        await drain.serve(take)


if __name__ == "__main__":
    uvloop.run(main())
