"""A real gateway on an ephemeral port, on real stores, in the test's own event loop."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx

from broker.gateway.serve import Running, running
from broker.settings import Settings

OPERATOR_KEY = "operator-key-for-tests"


def settings_for(redis_url: str, database_url: str, **more: Any) -> Settings:
    given: dict[str, Any] = {
        "redis_url": redis_url,
        "database_url": database_url,
        "agent_api_key": OPERATOR_KEY,
        "key_pepper": "pepper",
        "secrets_key": "a-key-of-more-than-thirty-two-characters",
        "port": 0,
        "drain_timeout_ms": 5_000,
        "endpoint_allow_cidrs": "127.0.0.0/8",
        "endpoint_ports": "1-65535",
    }
    return Settings(**(given | more))


@asynccontextmanager
async def held(settings: Settings) -> AsyncIterator[Running]:
    """Run a gateway in a task of its own: fixtures are left in another task than they were entered in."""
    started: asyncio.Future[Running] = asyncio.get_running_loop().create_future()

    async def hold() -> None:
        async with running(settings) as gateway:
            started.set_result(gateway)
            await gateway.stop.wait()

    task = asyncio.create_task(hold())
    await asyncio.wait((task, started), return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        task.result()
    gateway = await started
    try:
        yield gateway
    finally:
        gateway.stop.set()
        await task


@asynccontextmanager
async def calling(gateway: Running, key: str | None = OPERATOR_KEY) -> AsyncIterator[httpx.AsyncClient]:
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    # Not verifying what is not there saves 20 ms of reading certificates a client.
    async with httpx.AsyncClient(
        base_url=gateway.url, headers=headers, timeout=20, trust_env=False, verify=False
    ) as http:
        yield http


async def until_ready(gateway: Running) -> None:
    """Wait until the gateway serves: it has to find its stores first."""
    async with calling(gateway) as http:
        for _ in range(500):
            reply = await http.get("/readyz")
            if reply.status_code == 200:
                return
            await asyncio.sleep(0.02)
    raise AssertionError(reply.text)


Register = Callable[..., Any]
