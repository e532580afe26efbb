"""Operations: work orders."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from broker.client.request import Listing, Request, given, path_of
from broker.client.subject import ShellT, Subject, listing, operation
from broker.client.values import WorkOrder, WorkOrderPage, WorkOrderStory
from schema.ids import new_id
from schema.message import Json

PATH = "/api/v1/messaging/work-order"


class WorkOrders(Subject[ShellT]):
    """Work asked for, taken on and delivered. `agent_id`, `from_agent_id`: as whom, where the key does not
    say it."""

    @operation("orderWork")
    def create(
        self,
        title: str,
        *,
        to: str | None = None,
        capabilities: Sequence[str] | None = None,
        description: str = "",
        requirements: Mapping[str, Any] | None = None,  # the requester's own JSON
        budget_usd: Decimal | int | str | None = None,
        deadline_at: datetime | None = None,
        from_agent_id: str | None = None,
    ) -> Request[WorkOrder]:
        """Ask an agent to do something, or (with `capabilities`) the first capable one that accepts.

        `budget_usd` is exact: a Decimal, a whole number, or the text of one.

        Raises: UnknownRecipient, NotAccepting, NotAContact, Rejected.
        """
        body = given(
            title=title,
            to_agent_id=to,
            capabilities=None if capabilities is None else tuple(capabilities),
            description=description,
            requirements=requirements,
            budget_usd=None if budget_usd is None else Decimal(budget_usd),
            deadline_at=deadline_at,
        )
        # With a key of its own it may be sent twice and is ordered once.
        return Request(
            method="POST",
            path=PATH,
            reply=WorkOrder,
            query={"from_agent_id": from_agent_id},
            body=body,
            headers={"Idempotency-Key": new_id()},
        )

    @listing("listWorkOrders")
    def list(
        self,
        *,
        role: Literal["worker", "requester"] | None = None,
        status: str | None = None,
        agent_id: str | None = None,
    ) -> Listing[WorkOrder]:
        """Yield the orders one has to do with in this role, newest first."""
        query = {"agent_id": agent_id, "role": role, "status": status}
        first = Request(method="GET", path=f"{PATH}s", reply=WorkOrderPage, query=query)
        return Listing(first=first, rows="work_orders")

    __call__ = list

    @operation("showWorkOrder")
    def show(self, work_order_id: str) -> Request[WorkOrderStory]:
        """Return an order with its history. Raises: NotFound."""
        return Request(method="GET", path=f"{PATH}/{path_of(work_order_id)}", reply=WorkOrderStory)

    @operation("respondToWorkOrder")
    def accept(
        self,
        work_order_id: str,
        *,
        estimated_completion: datetime | None = None,
        agent_id: str | None = None,
    ) -> Request[WorkOrder]:
        """Take an order on; the reply has the `lease` that whatever follows is done under.

        Raises: NotFound, IllegalTransition, AtCapacity, Conflict where another was first.
        """
        body = given(action="accept", estimated_completion=estimated_completion)
        return _act(work_order_id, "respond", body, agent_id)

    @operation("respondToWorkOrder")
    def reject(
        self, work_order_id: str, reason: str | None = None, *, agent_id: str | None = None
    ) -> Request[WorkOrder]:
        """Say no to an order. Raises: NotFound, IllegalTransition."""
        return _act(work_order_id, "respond", given(action="reject", rejection_reason=reason), agent_id)

    @operation("reportProgress")
    def progress(
        self,
        work_order_id: str,
        lease: str,
        *,
        note: str | None = None,
        percent: int | None = None,
        agent_id: str | None = None,
    ) -> Request[WorkOrder]:
        """Say how far it is; renews the lease. Raises: LeaseLost, IllegalTransition."""
        return _act(work_order_id, "progress", given(lease=lease, note=note, percent=percent), agent_id)

    @operation("completeWorkOrder")
    def complete(
        self,
        work_order_id: str,
        lease: str,
        result: Any = None,  # any JSON
        *,
        agent_id: str | None = None,
    ) -> Request[WorkOrder]:
        """Deliver the result. Raises: LeaseLost, IllegalTransition."""
        return _act(work_order_id, "complete", {"lease": lease, "result": result}, agent_id)

    @operation("completeWorkOrder")
    def fail(
        self, work_order_id: str, lease: str, reason: str, *, agent_id: str | None = None
    ) -> Request[WorkOrder]:
        """Say that it cannot be done. Raises: LeaseLost, IllegalTransition."""
        return _act(work_order_id, "complete", {"lease": lease, "failed": True, "reason": reason}, agent_id)

    @operation("cancelWorkOrder")
    def cancel(
        self, work_order_id: str, reason: str | None = None, *, agent_id: str | None = None
    ) -> Request[WorkOrder]:
        """Take back an order of one's own. Raises: NotFound, IllegalTransition."""
        return _act(work_order_id, "cancel", given(reason=reason), agent_id)


def _act(work_order_id: str, verb: str, body: Json, agent_id: str | None) -> Request[WorkOrder]:
    path = f"{PATH}/{path_of(work_order_id)}/{verb}"
    return Request(method="POST", path=path, reply=WorkOrder, query={"agent_id": agent_id}, body=body)
