"""A real gateway, and the operator's client to it."""

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from gateway_rig import Register, calling, held, settings_for, until_ready
from recording import Recorder, recording

from broker.gateway.serve import Running


@pytest.fixture
async def gateway(streams_url: str, database_url: str) -> AsyncIterator[Running]:
    async with held(settings_for(streams_url, database_url)) as one:
        await until_ready(one)
        yield one


@pytest.fixture
async def http(gateway: Running) -> AsyncIterator[httpx.AsyncClient]:
    """The operator's client."""
    async with calling(gateway) as client:
        yield client


@pytest.fixture
def register(http: httpx.AsyncClient) -> Register:
    """Return a coroutine function that registers an agent and returns the reply's body."""

    async def make(name: str, **more: Any) -> Any:
        reply = await http.post("/api/agents", json={"name": name, **more})
        assert reply.status_code == 201, reply.text
        return reply.json()

    return make


@pytest.fixture
async def recorder(gateway: Running, streams_url: str) -> AsyncIterator[Recorder]:
    """What is published gets recorded."""
    async with recording(streams_url, gateway.services.pool) as one:
        yield one
