"""Agents and work orders, over a gateway."""

import asyncio
import logging
from collections.abc import AsyncIterator
from decimal import Decimal

import pytest
from gateway_rig import OPERATOR_KEY, held, settings_for, until_ready
from recording import recording

from broker.client import AgentClient, Conflict, Order
from broker.client.handlers import Handlers
from broker.client.incoming import Arrival
from broker.client.orders import OrderWork
from broker.client.outcomes import Again, Failed, Outcome, Processed
from broker.gateway.serve import Running

LONG_MS = 60_000
"""No order is finished so late that it was renewed: a renewal is a line of its history."""
SHORT_MS = 6_000
RENEWED_S = 20

lapsing = pytest.mark.parametrize("lease_ms", [SHORT_MS])


@pytest.fixture
def lease_ms() -> int:
    return LONG_MS


@pytest.fixture
async def gateway(streams_url: str, database_url: str, lease_ms: int) -> AsyncIterator[Running]:
    async with held(settings_for(streams_url, database_url, work_order_lease_ms=lease_ms)) as one:
        await until_ready(one)
        async with recording(streams_url, one.services.pool):
            yield one


class Sides:
    """A requester and a worker."""

    def __init__(self, requester: AgentClient, worker: AgentClient, worker_id: str) -> None:
        self.requester = requester
        self.worker = worker
        self.worker_id = worker_id
        self.work = OrderWork()

    async def order(self, **more: object) -> str:
        made = await self.requester.work_orders.create("paint", to=self.worker_id, budget_usd="0.10", **more)  # type: ignore[arg-type]  # a test's fields
        assert made.budget_usd == Decimal("0.10")
        return made.work_order_id

    async def handle(self, order_id: object) -> Outcome:
        message = Arrival(id="m", message_type="work_order", content={"work_order_id": order_id})
        return await self.work.handle(self.worker, self.worker_id, message)


@pytest.fixture
async def sides(gateway: Running) -> AsyncIterator[Sides]:
    async with AgentClient(gateway.url, OPERATOR_KEY) as operator:
        boss, hand = await operator.register("boss"), await operator.register("hand")
    async with (
        AgentClient(gateway.url, boss.api_key) as requester,
        AgentClient(gateway.url, hand.api_key) as worker,
    ):
        yield Sides(requester, worker, hand.id)


async def test_an_order_is_accepted_worked_on_and_delivered(sides: Sides) -> None:
    @sides.work.work_with
    async def paint(order: Order) -> dict[str, str]:
        await order.progress("half", percent=50)
        return {"painted": order.title, "for": str(order.budget_usd)}

    order_id = await sides.order(requirements={"colour": "red"})
    assert isinstance(await sides.handle(order_id), Processed)
    shown = await sides.requester.work_orders.show(order_id)
    assert (shown.status, shown.result) == ("completed", {"painted": "paint", "for": "0.1"})
    assert [step.action for step in shown.history] == ["create", "accept", "progress", "complete"]


@lapsing
async def test_the_lease_is_renewed_while_the_handler_works(sides: Sides) -> None:
    order_id = await sides.order()

    async def work(order: Order) -> str:
        first = (await sides.worker.work_orders.show(order_id)).lease_until
        async with asyncio.timeout(RENEWED_S):
            while (await sides.worker.work_orders.show(order_id)).lease_until == first:  # noqa: ASYNC110  # nobody tells
                await asyncio.sleep(0.05)
        return "renewed"

    sides.work.work_with(work)
    await sides.handle(order_id)
    assert (await sides.requester.work_orders.show(order_id)).result == "renewed"


async def test_what_the_handler_raises_fails_the_order(
    sides: Sides, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)

    async def work(order: Order) -> None:
        raise OSError("no paint")

    sides.work.work_with(work)
    order_id = await sides.order()
    await sides.handle(order_id)
    shown = await sides.requester.work_orders.show(order_id)
    assert (shown.status, shown.status_reason) == ("failed", "OSError: no paint")


async def test_a_handler_may_decide_by_itself(sides: Sides) -> None:
    async def decide(order: Order) -> str | None:
        if order.requirements.get("colour") == "red":
            await order.reject("no red")
            return None
        await order.accept()
        return "painted"

    sides.work.decide_with(decide)
    red, blue = await sides.order(requirements={"colour": "red"}), await sides.order()
    await sides.handle(red)
    await sides.handle(blue)
    shown = await sides.requester.work_orders.show(red)
    assert (shown.status, shown.status_reason) == ("rejected", "no red")
    assert (await sides.requester.work_orders.show(blue)).result == "painted"


async def test_an_order_that_is_not_to_be_had_is_left_alone(sides: Sides) -> None:
    async def work(order: Order) -> None:
        raise AssertionError("nobody asked for it")

    sides.work.work_with(work)
    order_id = await sides.order()
    await sides.requester.work_orders.cancel(order_id, "changed my mind")
    assert await sides.handle(order_id) == Processed({"work_order": "cancelled"})
    assert isinstance(await sides.handle(None), Failed)
    assert await sides.handle("no-such-order") == Processed({"work_order": "not_found"})


@lapsing
async def test_an_order_of_a_former_life_is_taken_on_again_when_its_lease_has_lapsed(
    sides: Sides, lease_ms: int
) -> None:
    async def work(order: Order) -> str:
        return "by the second life"

    sides.work.work_with(work)
    order_id = await sides.order()
    former = await sides.worker.work_orders.accept(order_id)
    outcome = await sides.handle(order_id)
    assert isinstance(outcome, Again)
    assert 0 < outcome.after_s <= lease_ms / 1000
    # Told when to come again, it may come a breath too early.
    while isinstance(outcome, Again):
        await asyncio.sleep(outcome.after_s)
        outcome = await sides.handle(order_id)
    assert isinstance(outcome, Processed)
    assert (await sides.requester.work_orders.show(order_id)).result == "by the second life"
    with pytest.raises(Conflict):
        await sides.worker.work_orders.complete(order_id, str(former.lease), "late")


def test_there_is_one_handler_for_orders_and_it_is_async() -> None:
    handlers = Handlers()

    async def work(order: Order) -> None: ...

    handlers.orders.work_with(work)
    with pytest.raises(ValueError, match="already"):
        handlers.orders.decide_with(work)
    with pytest.raises(TypeError, match="async function"):
        OrderWork().work_with(lambda order: None)  # type: ignore[arg-type,return-value]
