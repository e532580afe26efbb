"""Showing work orders: one with its history, and an agent's list."""

from typing import Any

from broker.gateway.access import acting_agent
from broker.gateway.call import Call, Reply
from broker.gateway.coordination.caller import AGENT, required_agent
from broker.gateway.paging import page_headers
from broker.gateway.work_orders.checking import ActorQuery, ListQuery, order_id_of
from broker.store import work_orders as stored
from broker.store.work_order_changes import Changed
from broker.store.work_orders import OrderFilter
from schema import limits
from schema.errors import NotFound
from schema.work_order import (
    OrderStatus,
    Party,
    WorkOrderList,
    WorkOrderReply,
    WorkOrderView,
    WorkOrderWithHistory,
)

PATH = "/api/v1/messaging/work-orders"


async def show(call: Call[None, ActorQuery]) -> Reply:
    """Show a work order and its whole history, to its two sides, to agents that may take it now, and to an
    operator. For everybody else there is none."""
    services = call.services
    agent_id = await acting_agent(call, call.query.agent_id, call.query.from_agent_id)
    order_id = order_id_of(call.path)
    found = None if order_id is None else await stored.find(services.pool, order_id, agent_id)
    if found is None or not (found.visible or call.principal.is_operator):
        raise NotFound("no such work order")
    history = await stored.history(services.pool, found.view.work_order_id)
    return Reply(body=WorkOrderWithHistory(**_fields(found.view), history=history))


async def list_(call: Call[None, ListQuery]) -> Reply:
    """List an agent's work orders, newest first. As a `worker`: those it has, had, or is offered and may
    take; as a `requester`: those it ordered."""
    services, query = call.services, call.query
    agent_id = await required_agent(call, query.agent_id, field=AGENT)
    page = await stored.list_page(
        services.pool,
        OrderFilter(
            agent_id=agent_id,
            role=Party(query.role),
            status=None if query.status is None else OrderStatus(query.status),
            limit=min(query.limit, limits.PAGE_ROWS_MAX),
            cursor=query.cursor,
        ),
    )
    body = WorkOrderList(
        agent_id=agent_id,
        role=query.role,
        total=page.total,
        work_orders=page.items,
        next_cursor=page.cursor,
    )
    given = [("agent_id", agent_id), ("role", query.role)]
    given += [] if query.status is None else [("status", query.status)]
    return Reply(body=body, headers=page_headers(PATH, [*given, ("limit", str(query.limit))], page.cursor))


def reply_of(changed: Changed) -> WorkOrderReply:
    """Return what the caller sees of an order it has changed."""
    body = WorkOrderReply(**_fields(changed.view))
    if changed.lease is not None:
        body.lease = changed.lease
    return body


def _fields(view: WorkOrderView) -> dict[str, Any]:  # fields have as many types
    return {name: getattr(view, name) for name in view.__struct_fields__}
