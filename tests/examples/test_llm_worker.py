"""The LLM worker example on a real broker, against a model server that speaks the chat completions format."""

import asyncio
import json
from collections.abc import Callable
from decimal import Decimal
from typing import Any

from example_rig import Answer, as_json, at_work
from whole_broker import PATIENCE_S

from broker.client import AgentClient
from examples import llm_worker


class Scribe:
    """A model server: says how many messages it was shown; can be told to fail."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.is_down = False

    def answer(self, path: str, body: bytes) -> Answer:
        assert path == "/v1/chat/completions"
        if self.is_down:
            return 500, {}, b"out of memory"
        self.asked.append(json.loads(body))
        said = f"draft {len(self.asked)} after {len(self.asked[-1]['messages'])} messages"
        return as_json({"choices": [{"message": {"role": "assistant", "content": said}}]})


async def ordered(operator: AgentClient, where: dict[str, str], url: str) -> Any:
    """Order a text from the example, and return the order's story when it has ended."""
    requester = await operator.register(f"editor-{url.rpartition(':')[2]}")
    worker = llm_worker.make_agent(llm_worker.Model(f"{url}/v1", "scribe"), **where)
    async with at_work(worker), AgentClient(where["url"], requester.api_key) as editor:
        order = await editor.work_orders.create(
            "Release notes",
            capabilities=["write"],
            description="For version 2",
            requirements={"words": 100},
            budget_usd="1.50",
        )
        async with asyncio.timeout(PATIENCE_S):
            while True:
                story = await editor.work_orders.show(order.work_order_id)
                if story.status not in ("pending", "accepted"):
                    return story
                await asyncio.sleep(0.05)


async def test_an_order_is_accepted_worked_on_in_steps_and_delivered(
    operator: AgentClient, where: dict[str, str], serve: Callable[..., str]
) -> None:
    scribe = Scribe()
    story = await ordered(operator, where, serve(scribe.answer))
    assert (story.status, story.budget_usd) == ("completed", Decimal("1.50"))
    assert story.result == {"text": "draft 3 after 7 messages", "steps": 3}
    assert [event.action for event in story.history if event.action != "offer"] == [
        *("create", "accept"),
        *("progress",) * 3,
        "complete",
    ]
    assert "For version 2" in scribe.asked[0]["messages"][1]["content"]


async def test_a_model_that_fails_fails_the_order_with_the_reason(
    operator: AgentClient, where: dict[str, str], serve: Callable[..., str]
) -> None:
    scribe = Scribe()
    scribe.is_down = True
    story = await ordered(operator, where, serve(scribe.answer))
    assert story.status == "failed"
    assert "500" in json.dumps(story.history[-1].detail)
