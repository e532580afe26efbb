"""Receipts: word to a waiting gateway that a message reached a rung. Pub/sub, so a lost one costs the waiter
its time-out and nothing else; the truth is in Postgres."""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Final

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from broker.streams.connection import Argument, Connection
from broker.streams.keys import NOTIFY_ALL, notify
from schema.codec import decode_receipts, encode
from schema.ledger import Receipt

OnReceipts = Callable[[list[Receipt]], None]
RECONNECT_S: Final = 0.5


def commands(receipts: Mapping[str, list[Receipt]]) -> list[list[Argument]]:
    """Return one PUBLISH per gateway (`*`: all gateways)."""
    return [
        ["PUBLISH", NOTIFY_ALL if gateway == "*" else notify(gateway), encode(batch)]
        for gateway, batch in receipts.items()
    ]


async def publish(connection: Connection, receipts: Iterable[tuple[str, Receipt]]) -> None:
    """Send receipts to the gateways that wait for them. Raises: StreamsUnavailable."""
    grouped: dict[str, list[Receipt]] = defaultdict(list)
    for gateway, receipt in receipts:
        grouped[gateway].append(receipt)
    if grouped:
        await connection.send_many(commands(grouped))


class Receipts:
    """Hears receipts in a gateway. `run` until cancelled."""

    def __init__(self, url: str, *, gateway_id: str, on_receipts: OnReceipts) -> None:
        self._url = url
        self._channels = (NOTIFY_ALL, notify(gateway_id))
        self._on_receipts = on_receipts
        self.listening = asyncio.Event()
        """Set while subscribed: before that, waiting for a receipt is in vain."""

    async def run(self) -> None:
        """Listen, and listen again after the connection failed, until cancelled."""
        task = asyncio.current_task()
        # redis-py may swallow a cancellation that meets it connecting; it is still counted on the task.
        while task is not None and not task.cancelling():
            with suppress(RedisError, OSError):
                await self._listen()
            self.listening.clear()
            await asyncio.sleep(RECONNECT_S)

    async def _listen(self) -> None:
        redis = Redis.from_url(
            self._url, retry=Retry(NoBackoff(), 0), socket_timeout=7, health_check_interval=3
        )
        async with redis, redis.pubsub() as pubsub:
            await pubsub.subscribe(*self._channels)
            while True:
                message = await pubsub.get_message(timeout=2)
                if message is None:
                    continue
                if message["type"] == "subscribe":
                    self.listening.set()
                elif message["type"] == "message":
                    self._on_receipts(decode_receipts(message["data"]))
