"""The flood of the flood benchmark: one process that publishes natively, as fast as it can, as one sender.

`python -m bench.flooding <redis url> <sender> <recipient> <messages> <fair rate>`
"""

import asyncio
import sys
from collections.abc import Sequence
from typing import Final

from msgspec import Raw

from broker.streams.ingress import Publisher
from schema.ids import new_id
from schema.message import Envelope

AT_ONCE: Final = 1_000


async def flood(redis_url: str, sender: str, recipient: str, *, count: int, fair_rate_per_s: int) -> None:
    """Publish so many messages, none like another: the same again and again would be a loop."""
    publisher = Publisher(redis_url, shards=1, name="flood", fair_rate_per_s=fair_rate_per_s)
    try:
        for first in range(0, count, AT_ONCE):
            await publisher.publish_many(
                [
                    Envelope(
                        id=new_id(),
                        from_agent_id=sender,
                        to_agent_id=recipient,
                        content=Raw(b'{"n":"%b"}' % new_id().encode()),
                    )
                    for _ in range(first, min(first + AT_ONCE, count))
                ]
            )
    finally:
        await publisher.close()


def main(arguments: Sequence[str]) -> None:
    redis_url, sender, recipient, count, rate = arguments
    asyncio.run(flood(redis_url, sender, recipient, count=int(count), fair_rate_per_s=int(rate)))


if __name__ == "__main__":
    main(sys.argv[1:])
