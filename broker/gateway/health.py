"""Whether this process is up, and whether it can do its work."""

import asyncio
from collections.abc import Awaitable
from typing import Any, Final

from broker.gateway.call import Call, Reply
from broker.gateway.services import Services
from broker.store.migrate import pending
from schema.errors import BrokerError
from schema.http import HealthReply, ReadyReply

CHECK_S: Final = 3.0
"""A store that takes longer than this to say anything is away; the pool's own time-outs are shorter."""


async def healthz(_: Call[Any, Any]) -> Reply:
    """Say that the process is up; whoever asks needs no key."""
    return Reply(body=HealthReply(status="ok"))


async def readyz(call: Call[Any, Any]) -> Reply:
    """Say whether requests can be served: both stores answer, migrations are current, not draining."""
    services: Services = call.services
    names = ("redis", "postgres", "receipts")
    found = await asyncio.gather(
        _finding(_redis(services)), _finding(_postgres(services)), _finding(_receipts(services))
    )
    checks = dict(zip(names, found, strict=True))
    if services.draining:
        checks["process"] = "stopping"
    ready = all(finding == "ok" for finding in checks.values())
    headers = () if ready else (("Retry-After", "2"),)
    body = ReadyReply(status="ready" if ready else "not ready", checks=checks)
    return Reply(status=200 if ready else 503, body=body, headers=headers)


async def _finding(check: Awaitable[str]) -> str:
    try:
        async with asyncio.timeout(CHECK_S):
            return await check
    except TimeoutError:
        return "no answer in time"
    except BrokerError as error:
        return error.message


async def _redis(services: Services) -> str:
    connection = await services.link.get()
    await connection.send("PING")
    return "ok" if services.joined else "not joined the deployment yet"


async def _postgres(services: Services) -> str:
    missing = await pending(services.pool)
    return f"migrations to apply: {', '.join(missing)}" if missing else "ok"


async def _receipts(services: Services) -> str:
    return "ok" if services.notices.listening.is_set() else "not listening for receipts yet"
