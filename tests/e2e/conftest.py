"""Two brokers for all tests: one that is left in peace (`calm_broker`), one that things are done to. Both
start when first asked for, and their times are short, so that nothing has to be slept through."""

from collections.abc import AsyncIterator, Iterator

import pytest
from scene import Place, Scene, a_scene, eventually
from whole_broker import SHORT, WholeBroker, free_port


@pytest.fixture(scope="session")
def _broken_broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WholeBroker]:
    home = tmp_path_factory.mktemp("broken")
    # Long enough for a machine that stands still for seconds: a lease that ends lets messages come twice.
    broker = WholeBroker(home, port=free_port(), LEASE_MS="8000", **SHORT)
    yield broker
    if broker.is_running:
        broker.stop()


@pytest.fixture
def broker(_broken_broker: WholeBroker) -> WholeBroker:
    """A broker to be broken; running at the start, whatever the last test did to it."""
    if not _broken_broker.is_running:
        _broken_broker.start()
    return _broken_broker


@pytest.fixture
async def calm(calm_broker: WholeBroker) -> AsyncIterator[Scene]:
    """A scene on the calm broker."""
    async with a_scene(place_of(calm_broker)) as scene:
        yield scene


@pytest.fixture
async def scene(broker: WholeBroker) -> AsyncIterator[Scene]:
    """A scene on the broker that is broken."""
    async with a_scene(place_of(broker)) as scene:
        await eventually(scene.client.is_ready, what="the broker whole after the last test")
        yield scene


def place_of(broker: WholeBroker) -> Place:
    running = broker.running
    return Place(running.api_url, running.api_key, running.redis_url, running.database_url)
