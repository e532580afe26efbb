"""Delivers a message by HTTP POST to the endpoint of its agent, with retries, and records what happened.

Returns only when the rows are committed: the caller acknowledges afterwards.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import aiohttp
import asyncpg
import orjson
from rows import AttemptRow, Rows, message_row
from yarl import URL

TRIES = 3
BACKOFF_S = 0.2
TIMEOUT = aiohttp.ClientTimeout(total=10)
CONNECTIONS_PER_HOST = 4
"""As many as Agent Broker opens to one endpoint."""
LINGER_S = float(os.environ.get("LINGER_S", "0.005"))


class Undelivered(Exception):
    """Every try failed; the message has to come back later."""


class Delivery:
    def __init__(self, session: aiohttp.ClientSession, rows: Rows, endpoints: dict[str, URL]) -> None:
        self._session = session
        self._rows = rows
        self._endpoints = endpoints

    async def deliver(self, message: dict[str, Any]) -> None:
        """Push one message and record it. Raises: Undelivered."""
        body = orjson.dumps(message)
        attempts: list[AttemptRow] = []
        for number in range(1, TRIES + 1):
            attempts.append(await self._attempt(message, body, number))
            if attempts[-1][2] == "success":
                now = datetime.now(UTC)
                return await self._rows.add(message_row(message, status="delivered", at=now), attempts)
            await asyncio.sleep(BACKOFF_S * 2**number)
        await self._rows.add(message_row(message, status="pending", at=None), attempts)
        raise Undelivered(message["id"])

    async def _attempt(self, message: dict[str, Any], body: bytes, number: int) -> AttemptRow:
        began, at = time.monotonic(), datetime.now(UTC)
        headers = {"content-type": "application/json", "webhook-id": message["id"]}
        code = None
        try:
            endpoint = self._endpoints[message["to_agent_id"]]
            async with self._session.post(endpoint, data=body, headers=headers) as response:
                code = response.status
                await response.read()
        except (aiohttp.ClientError, TimeoutError):
            pass
        status = "success" if code is not None and 200 <= code < 300 else "failure"
        return (message["id"], number, status, code, int((time.monotonic() - began) * 1000), at)


@asynccontextmanager
async def delivery() -> AsyncIterator[Delivery]:
    """Open the connections of a worker, as DATABASE_URL says, and close them."""
    url = os.environ["DATABASE_URL"]
    connection = await asyncpg.connect(url)
    agents = await connection.fetch("SELECT id, endpoint FROM agents")
    endpoints = {str(agent["id"]): URL(agent["endpoint"]) for agent in agents}
    await connection.close()
    rows = await Rows.connect(url, linger_s=LINGER_S)
    connector = aiohttp.TCPConnector(limit=0, limit_per_host=CONNECTIONS_PER_HOST, keepalive_timeout=60)
    cookies = aiohttp.DummyCookieJar()
    async with aiohttp.ClientSession(connector=connector, timeout=TIMEOUT, cookie_jar=cookies) as session:
        yield Delivery(session, rows, endpoints)
    await rows.close()
