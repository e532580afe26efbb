"""Work orders in an agent's hands: accepted, kept by renewing their lease, and delivered.

An order comes as a message of type `work_order`, which is acknowledged when the order is finished with. An
agent that dies in the middle gets the message again, finds what became of the order, and takes it on once
more when the lease of its former life has lapsed.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from broker.client.backoff import Backoff
from broker.client.coroutines import require_coroutine
from broker.client.http import AgentClient
from broker.client.incoming import Arrival
from broker.client.outcomes import Again, Failed, Outcome, Processed, of_error, of_value
from broker.client.values import WorkOrder
from schema.errors import AtCapacity, BrokerError, Conflict, LeaseLost, Rejected, Unavailable
from schema.message import Json

OrderHandler = Callable[["Order"], Awaitable[Any]]  # returns any JSON: the result

RENEWALS_PER_LEASE: Final = 3
RENEW_S_MIN: Final = 0.05
RENEW_S_DEFAULT: Final = 20.0
"""Where the broker does not say how long a lease is."""

BUSY_S: Final = 5.0
"""Until an order is looked at again for which there was no capacity."""

log = logging.getLogger("broker.client")


class Order:
    """One work order, as its worker sees it."""

    def __init__(self, client: AgentClient, shown: WorkOrder) -> None:
        self._client = client
        self._shown = shown
        self.lease: str | None = None
        """Set once it is accepted: proves whose it is. A newer one makes it worthless."""
        self.accepted = asyncio.Event()
        self.lost = asyncio.Event()
        """Set when somebody else has it by now, or nobody: what is still done for it is in vain."""
        self.is_finished = False

    @property
    def id(self) -> str:
        return self._shown.work_order_id

    @property
    def title(self) -> str:
        return self._shown.title

    @property
    def description(self) -> str:
        return self._shown.description

    @property
    def requirements(self) -> Json:
        return self._shown.requirements

    @property
    def budget_usd(self) -> Decimal | None:
        return self._shown.budget_usd

    @property
    def deadline_at(self) -> datetime | None:
        return self._shown.deadline_at

    @property
    def requester(self) -> str:
        """The id of the agent that wants it."""
        return self._shown.from_agent.id

    @property
    def status(self) -> str:
        return self._shown.status

    async def accept(self, *, estimated_completion: datetime | None = None) -> None:
        """Take it on. Raises: Conflict where it is no longer to be had, AtCapacity."""
        accepted = await self._client.work_orders.accept(self.id, estimated_completion=estimated_completion)
        self._shown, self.lease = accepted, accepted.lease
        self.accepted.set()

    async def reject(self, reason: str | None = None) -> None:
        """Say no. Raises: Conflict where it is no longer to be had."""
        self._shown = await self._client.work_orders.reject(self.id, reason)
        self.is_finished = True

    async def progress(self, note: str | None = None, *, percent: int | None = None) -> None:
        """Say how far it is; renews the lease. Raises: LeaseLost, Conflict."""
        try:
            self._shown = await self._client.work_orders.progress(
                self.id, self._held(), note=note, percent=percent
            )
        except Conflict:
            self.lost.set()
            raise

    async def complete(self, result: Any = None) -> None:  # any JSON
        """Deliver the result. Raises: LeaseLost, Conflict."""
        self._shown = await self._client.work_orders.complete(self.id, self._held(), result)
        self.is_finished = True

    async def fail(self, reason: str) -> None:
        """Give it up. Raises: LeaseLost, Conflict."""
        self._shown = await self._client.work_orders.fail(self.id, self._held(), reason)
        self.is_finished = True

    @property
    def is_accepted(self) -> bool:
        return self.accepted.is_set()

    def is_to_be_had(self, agent_id: str) -> bool:
        """Whether it can be accepted: nobody has done so, or this agent, whose lease has lapsed."""
        return self.status == "pending" or (self.status == "accepted" and self._is_with(agent_id))

    def held_for_s(self, agent_id: str) -> float:
        """Return for how long an unlapsed lease of the agent's own, its token lost, is in the way."""
        until = self._shown.lease_until
        if self.is_accepted or self.status != "accepted" or until is None or not self._is_with(agent_id):
            return 0
        return max(0.0, (until - datetime.now(UTC)).total_seconds())

    def _is_with(self, agent_id: str) -> bool:
        return self._shown.to_agent is not None and self._shown.to_agent.id == agent_id

    def _held(self) -> str:
        if self.lease is None:
            raise LeaseLost("the work order has not been accepted here")
        return self.lease

    def renew_every_s(self) -> float:
        """Return how often its lease must be renewed."""
        until = self._shown.lease_until
        if until is None:
            return RENEW_S_DEFAULT
        return max(RENEW_S_MIN, (until - self._shown.updated_at).total_seconds() / RENEWALS_PER_LEASE)


class OrderWork:
    """What an agent does with the orders that come to it."""

    def __init__(self) -> None:
        self._handler: OrderHandler | None = None
        self._accepts = True

    @property
    def has_handler(self) -> bool:
        return self._handler is not None

    def work_with(self, handler: OrderHandler) -> None:
        """Accept every order before the handler gets it."""
        self._set(handler, accepts=True)

    def decide_with(self, handler: OrderHandler) -> None:
        """Let the handler accept or reject."""
        self._set(handler, accepts=False)

    async def handle(self, client: AgentClient, agent_id: str, arrival: Arrival) -> Outcome:
        """See an order through. Raises: Unavailable: the message is to come again."""
        assert self._handler is not None
        order_id = arrival.content.get("work_order_id")
        if not isinstance(order_id, str):
            return Failed("the message names no work order")
        try:
            order = Order(client, await client.work_orders.show(order_id))
            if (rest_s := order.held_for_s(agent_id)) > 0:
                # An earlier life of ours accepted it and its token died with it: ours again when it lapses.
                return Again(rest_s)
            if not order.is_to_be_had(agent_id):
                return Processed({"work_order": order.status})
            if self._accepts:
                await order.accept()
        except AtCapacity:
            return Again(BUSY_S)
        except (Conflict, Rejected) as error:
            log.info("work order %s: not taken (%s)", order_id, error.code)
            return Processed({"work_order": error.code})
        async with _kept(order):
            return await _work(order, self._handler)

    def _set(self, handler: OrderHandler, *, accepts: bool) -> None:
        require_coroutine(handler)
        if self._handler is not None:
            raise ValueError("there is a handler for work orders already")
        self._handler, self._accepts = handler, accepts


async def _work(order: Order, handler: OrderHandler) -> Outcome:
    outcome: Outcome
    try:
        outcome = of_value(await handler(order), answers=False)
    except Exception as error:
        log.exception("work order %s: the handler failed", order.id)
        outcome = of_error(error)
    backoff = Backoff()
    while order.is_accepted and not order.is_finished:
        try:
            if isinstance(outcome, Processed):
                await order.complete(outcome.result)
            else:
                await order.fail(outcome.reason if isinstance(outcome, Failed) else "given up")
        except Unavailable:
            # The work is done: worth more patience than a single call has, and the lease is still renewed.
            await asyncio.sleep(backoff.next_s())
        except (Conflict, Rejected) as error:
            log.warning("work order %s: not delivered (%s)", order.id, error.code)
            return Failed(f"work order not delivered: {error.code}")
    return Processed({"work_order": order.status})


@asynccontextmanager
async def _kept(order: Order) -> AsyncIterator[None]:
    """Renew the order's lease while the context is open, from the moment it has one."""
    renewing = asyncio.create_task(_renew(order))
    try:
        yield
    finally:
        renewing.cancel()
        await asyncio.wait((renewing,))


async def _renew(order: Order) -> None:
    await order.accepted.wait()
    while not (order.lost.is_set() or order.is_finished):
        await asyncio.sleep(order.renew_every_s())
        try:
            await order.progress()
        except BrokerError as error:
            log.warning("work order %s: the lease was not renewed (%s)", order.id, error.code)
