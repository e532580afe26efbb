"""Agents of the SDK over the death of the gateway they are connected to."""

import asyncio
import signal

import pytest
from scene import Scene, eventually
from whole_broker import WholeBroker

from broker.client import Agent, Message, Unavailable
from broker.client.life import Transport

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("transport", ["websocket", "poll"])
async def test_an_agent_outlives_its_gateway_and_works_on_each_message_once(
    scene: Scene, broker: WholeBroker, transport: Transport
) -> None:
    registered = await scene.agent(f"survivor-{transport}", script=None)
    agent = Agent(registered.name, url=scene.place.api_url, key=registered.api_key, transport=transport)
    runs: dict[int, int] = {}
    in_the_middle, go_on = asyncio.Event(), asyncio.Event()

    @agent.on()
    async def work(message: Message) -> None:
        number = message.content["n"]
        runs[number] = runs.get(number, 0) + 1
        if number == 5:
            in_the_middle.set()
            await go_on.wait()

    ids = [await scene.send(registered.id, content={"n": n}) for n in range(10)]
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(agent.serve())
        await in_the_middle.wait()
        await asyncio.to_thread(broker.signal, "gateway", signal.SIGKILL)
        go_on.set()
        ids += [await scene.send(registered.id, content={"n": n}) for n in range(10, 20)]

        async def all_processed() -> bool:
            try:
                return all([(await scene.client.message(i)).status == "processed" for i in ids])
            except Unavailable:
                return False

        await eventually(all_processed, what="every message processed")
        agent.stop()
    assert runs == dict.fromkeys(range(20), 1)
