"""A running broker, and an operator's client on it."""

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack

import pytest
from example_rig import Site, serving
from whole_broker import WholeBroker

from broker.client import AgentClient


@pytest.fixture
async def operator(calm_broker: WholeBroker) -> AsyncIterator[AgentClient]:
    running = calm_broker.running
    async with AgentClient(running.api_url, running.api_key) as client:
        yield client


@pytest.fixture
def where(calm_broker: WholeBroker) -> dict[str, str]:
    """What tells an agent where the broker is and with the operator's key, which may act as any agent."""
    return {"url": calm_broker.running.api_url, "key": calm_broker.running.api_key}


@pytest.fixture
def serve() -> Iterator[Callable[[Site], str]]:
    """Return a function that serves a site until the test ends and returns its URL."""
    with ExitStack() as stack:
        yield lambda site: stack.enter_context(serving(site))
