"""The stream both sides use: on disk, and as strict as the server's `sync_interval: always` makes it."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import nats
from nats.js import JetStreamContext
from nats.js.api import RetentionPolicy, StorageType, StreamConfig

SUBJECT, STREAM, DURABLE = "messages", "MESSAGES", "delivery"


@asynccontextmanager
async def jetstream() -> AsyncIterator[JetStreamContext]:
    client = await nats.connect(os.environ["NATS_URL"])
    js = client.jetstream(publish_async_max_pending=4_096)
    await js.add_stream(
        StreamConfig(
            name=STREAM, subjects=[SUBJECT], storage=StorageType.FILE, retention=RetentionPolicy.WORK_QUEUE
        )
    )
    yield js
    await client.drain()
