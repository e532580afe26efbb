"""A whole broker, its operator, and a line to it that can be cut."""

from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from line import Line
from whole_broker import WholeBroker

from broker.client import AgentClient
from broker.servers.running import Running


@pytest.fixture
def running(calm_broker: WholeBroker) -> Running:
    """Where the broker is."""
    return calm_broker.running


@pytest.fixture
async def operator(running: Running) -> AsyncIterator[AgentClient]:
    """The operator's client."""
    async with AgentClient(running.api_url, running.api_key, timeout_s=30) as client:
        yield client


@pytest.fixture
def mark() -> str:
    """Something no other test's names contain."""
    return uuid4().hex[:8]


@pytest.fixture
async def line(running: Running) -> AsyncIterator[Line]:
    """A line to the broker that can be cut."""
    one = Line(int(running.api_url.rsplit(":", 1)[1]))
    await one.open()
    yield one
    await one.close()
