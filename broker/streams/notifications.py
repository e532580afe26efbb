"""Words over pub/sub, and the receipts among them: word to a waiting gateway that a message reached a rung.

One connection of a gateway hears every channel it has a handler for. A lost word costs whoever waits for it
their time-out or their next sweep and nothing else: the truth is in the mailboxes and in Postgres.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from itertools import islice
from typing import Final

from redis.asyncio import Redis
from redis.asyncio.client import PubSub
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from broker.streams.cluster import node_urls
from broker.streams.connection import Argument, Connection
from broker.streams.keys import NOTIFY_ALL, RECORDED, notify
from broker.telemetry import logs
from schema.codec import decode_receipts, encode
from schema.ledger import Receipt
from schema.limits import RECORDED_AGENTS_MAX

OnReceipts = Callable[[list[Receipt]], None]
Handler = Callable[[bytes], None]
EVERY_GATEWAY: Final = "*"
RECONNECT_S: Final = 0.5
LOOK_S: Final = 0.5
"""Between two looks for channels that were added meanwhile."""


def commands(receipts: Mapping[str, list[Receipt]]) -> list[list[Argument]]:
    """Return one PUBLISH per gateway (`*`: all gateways)."""
    return [
        ["PUBLISH", NOTIFY_ALL if gateway == EVERY_GATEWAY else notify(gateway), encode(batch)]
        for gateway, batch in receipts.items()
    ]


async def publish(connection: Connection, receipts: Iterable[tuple[str, Receipt]]) -> None:
    """Send receipts to the gateways that wait for them. Raises: StreamsUnavailable."""
    await publish_recorded(connection, receipts, ())


async def publish_recorded(
    connection: Connection, receipts: Iterable[tuple[str, Receipt]], agents: Iterable[str]
) -> None:
    """Send receipts, and word that something was recorded that still waits for these agents.

    Raises: StreamsUnavailable.
    """
    grouped: dict[str, list[Receipt]] = defaultdict(list)
    for gateway, receipt in receipts:
        grouped[gateway].append(receipt)
    words = commands(grouped)
    named = list(islice(agents, RECORDED_AGENTS_MAX))
    if named:
        words.append(["PUBLISH", RECORDED, encode(named)])
    if words:
        await connection.send_many(words)


class Notices:
    """Hears channels and passes what is said on them to their handlers. `run` until cancelled."""

    def __init__(self, url: str, handlers: Mapping[str, Handler] | None = None) -> None:
        self._url = url
        self._handlers: dict[str, list[Handler]] = {
            channel: [handler] for channel, handler in (handlers or {}).items()
        }
        self.listening = asyncio.Event()
        """Set while every channel is subscribed to: before that, waiting for a word is in vain."""

    def on(self, channel: str, handler: Handler) -> None:
        """Call the handler with whatever is said on the channel, from the loop: it must not wait.

        A channel that is new to a running listener is heard within `LOOK_S`; `listening` tells since when.
        """
        if channel not in self._handlers:
            self.listening.clear()
        self._handlers.setdefault(channel, []).append(handler)

    async def run(self) -> None:
        """Listen, and listen again after the connection failed, until cancelled.

        Of a cluster any node will do, because each hears what is said at every other.
        """
        tries = 0
        while not _is_cancelled():
            urls = node_urls(self._url)
            # RuntimeError: uvloop's word for a socket that broke as soon as it was connected.
            with suppress(RedisError, OSError, RuntimeError):
                await self._listen(urls[tries % len(urls)])
            self.listening.clear()
            tries += 1
            await asyncio.sleep(RECONNECT_S)

    async def _listen(self, url: str) -> None:
        redis = Redis.from_url(url, retry=Retry(NoBackoff(), 0), socket_timeout=7, health_check_interval=3)
        async with redis, redis.pubsub() as pubsub:
            await self._hear(pubsub)

    async def _hear(self, pubsub: PubSub) -> None:
        asked: set[str] = set()
        heard: set[str] = set()
        while not _is_cancelled():
            if new := self._handlers.keys() - asked:
                await pubsub.subscribe(*new)
                asked |= new
            if not asked:
                await asyncio.sleep(LOOK_S)
                continue
            message = await pubsub.get_message(timeout=LOOK_S)
            if message is None:
                continue
            channel = message["channel"].decode()
            if message["type"] == "subscribe":
                heard.add(channel)
                if heard >= self._handlers.keys():
                    self.listening.set()
            elif message["type"] == "message":
                self._pass_on(channel, message["data"])

    def _pass_on(self, channel: str, data: bytes) -> None:
        for handler in self._handlers[channel]:
            try:
                handler(data)
            except Exception as error:  # The top of a loop: anybody with access to Redis may say anything.
                logs.error("notices.handler_failed", channel=channel, error=error)


def _is_cancelled() -> bool:
    """Return whether this task was told to end.

    redis-py may swallow a cancellation that comes as a connection or a reply does, and a task group cancels
    once only; but the task has it counted.
    """
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def hear_receipts(notices: Notices, *, gateway_id: str, on_receipts: OnReceipts) -> None:
    """Pass receipts to this gateway, and to all of them, to `on_receipts`."""
    for channel in (NOTIFY_ALL, notify(gateway_id)):
        notices.on(channel, lambda data: on_receipts(decode_receipts(data)))
