"""`up` itself stopped or killed under load, and started again on the same data directory."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
from conftest import place_of
from receivers import Gate
from scene import Scene, spread
from whole_broker import WholeBroker, until

from broker.client.streams import message

pytestmark = pytest.mark.e2e

SHARDS = 2


@asynccontextmanager
async def half_delivered(scene: Scene) -> AsyncIterator[tuple[Gate, list[str]]]:
    """Messages of every kind of waiting: held open by receivers, queued behind them, parked, scheduled."""
    gate = Gate()
    agents = [await scene.agent(f"holding-{number}", gate) for number in range(3)]
    await scene.publish(*(message({"n": n}, to=spread(agents, n)) for n in range(100)))
    parked = [await scene.send(requirements=[scene.named("later")]) for _ in range(3)]
    held = await scene.held(gate, at_least=12)
    yield gate, [request.id for request in held]
    await scene.agent("able", capabilities=[scene.named("later")])
    await scene.balance()
    assert set(parked) <= scene.ledger.received.keys()


async def move(scene: Scene, broker: WholeBroker) -> None:
    """Follow the broker after a start: its stores may listen elsewhere, itself may not."""
    place = place_of(broker)
    assert (place.api_url, place.api_key) == (scene.place.api_url, scene.place.api_key)
    await scene.move(place)


async def test_up_stopped_under_load_drains_and_goes_on_at_the_next_start(
    broker: WholeBroker, scene: Scene
) -> None:
    async with half_delivered(scene) as (gate, _):
        before = broker.draining()
        stopping = asyncio.create_task(asyncio.to_thread(broker.stop))
        await asyncio.to_thread(until, lambda: broker.draining() == before + SHARDS, what="the drain")
        gate.open()
        assert await stopping == 0
        await asyncio.to_thread(broker.start)
        await move(scene, broker)
    assert scene.ledger.repeated == set()


@pytest.mark.parametrize("kill", [WholeBroker.kill_supervisor, WholeBroker.kill_everything])
async def test_up_killed_goes_on_with_the_same_data(
    kill: Callable[[WholeBroker], None], broker: WholeBroker, scene: Scene
) -> None:
    async with half_delivered(scene) as (gate, held):
        with scene.ledger.broken():
            await asyncio.to_thread(kill, broker)
            gate.open()
            await asyncio.to_thread(broker.start)
            await move(scene, broker)
    assert scene.ledger.repeated <= set(held)
