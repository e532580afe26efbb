"""Delivers messages as taskiq tasks: Redis streams, acknowledged after the task, aiohttp pushes, asyncpg
records.

A task that fails is sent again by the retry middleware before the first one is acknowledged; what a crashed
worker left behind is claimed after a minute.
"""

import os
from contextlib import AsyncExitStack
from typing import Any

import deliver
from taskiq import SimpleRetryMiddleware, TaskiqEvents, TaskiqState
from taskiq.serializers import ORJSONSerializer
from taskiq_redis import RedisStreamBroker

RETRIES_MAX = 20
ABANDONED_MS = 60_000

broker = (
    RedisStreamBroker(
        os.environ["REDIS_URL"],
        queue_name="messages",
        consumer_group_name="delivery",
        consumer_id="0",
        xread_count=int(os.environ.get("READ", "100")),
        idle_timeout=ABANDONED_MS,
        max_connection_pool_size=int(os.environ.get("REDIS_CONNECTIONS", "32")),
        socket_connect_timeout=30,
        socket_timeout=30,
    )
    .with_serializer(ORJSONSerializer())
    .with_middlewares(SimpleRetryMiddleware(default_retry_count=RETRIES_MAX))
)
stack = AsyncExitStack()


@broker.on_event(TaskiqEvents.WORKER_STARTUP)
async def open_connections(state: TaskiqState) -> None:
    state.delivery = await stack.enter_async_context(deliver.delivery())


@broker.on_event(TaskiqEvents.WORKER_SHUTDOWN)
async def close_connections(state: TaskiqState) -> None:
    await stack.aclose()


@broker.task(retry_on_error=True)
async def push(message: dict[str, Any]) -> None:
    await broker.state.delivery.deliver(message)
