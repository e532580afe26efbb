"""Making a work order: directed to an agent, or open to whoever is capable."""

from broker.core.budget import plain
from broker.gateway.call import Call, Reply
from broker.gateway.coordination.admission import addressed, admit
from broker.gateway.coordination.caller import SENDER, required_agent
from broker.gateway.idempotency import once
from broker.gateway.known_agents import unknown_recipient
from broker.gateway.reading import Faults
from broker.gateway.services import Services
from broker.gateway.work_orders.checking import RequesterQuery
from broker.gateway.work_orders.showing import reply_of
from broker.gateway.work_orders.telling import publish, publish_recorded
from broker.store import agents as stored_agents
from broker.store.work_order_changes import Changed, Draft, create
from broker.telemetry import metrics
from schema.agent import AgentStatus
from schema.errors import NotAccepting, Rejected
from schema.ids import new_id
from schema.times import as_utc, to_ms
from schema.work_order import MESSAGE_OFFER, WorkOrderRequest

PATH = "/api/v1/messaging/work-order"
_NOT_ACCEPTING = metrics.WORK_ORDERS.child(action="create", outcome="not_accepting")


async def order(call: Call[WorkOrderRequest, RequesterQuery]) -> Reply:
    """Order work of an agent, or, without `to_agent_id`, of whoever has all the `capabilities` and accepts
    first. The worker gets a message of type `work_order`; an open order is offered to up to 64 capable agents
    at once and to others as they come. An agent that takes no work orders is 409 `not_accepting`."""
    services, request = call.services, call.body
    _check_deadline(services, request)
    requester = await required_agent(call, call.query.from_agent_id, call.query.agent_id, field=SENDER)
    worker = await _worker(services, request, requester)

    async def run(order_id: str | None) -> Reply:
        draft = _draft(request, order_id or new_id(), requester, worker)
        return await _ordered(services, await create(services.pool, draft))

    return await once(call, "orderWork", requester, run)


async def _ordered(services: Services, changed: Changed) -> Reply:
    body = reply_of(changed)
    if body.open:
        body.offered_to = changed.offered_to
        await publish(services, changed.envelopes)
    else:
        for envelope in changed.envelopes:  # one
            await publish_recorded(services, envelope)
    return Reply(status=201, body=body, headers=(("Location", f"{PATH}/{body.work_order_id}"),))


def _check_deadline(services: Services, request: WorkOrderRequest) -> None:
    if request.deadline_at is not None and to_ms(as_utc(request.deadline_at)) <= services.now_ms():
        faults = Faults()
        faults.add("deadline_at", "is in the past")
        faults.raise_if_any()


async def _worker(services: Services, request: WorkOrderRequest, requester: str) -> str | None:
    """Return the id of the agent the order is directed to; None for an open one.

    Raises: UnknownRecipient, NotAccepting, NotAContact, RateLimited; Rejected for an order to oneself.
    """
    if request.to_agent_id is None:
        return None
    agent_id, _ = await addressed(services, request.to_agent_id)
    # Read anew: whoever has just said that it takes no orders must not get one for half a minute.
    agent = await stored_agents.get(services.pool, agent_id)
    if agent is None:
        raise unknown_recipient(request.to_agent_id)
    if agent.id == requester:
        raise Rejected("to_agent_id: nobody orders work of himself", field="to_agent_id")
    if not agent.accepts_work_orders or agent.status is AgentStatus.DISABLED:
        _NOT_ACCEPTING.inc()
        raise NotAccepting(f"{agent.name!r} takes no work orders at present")
    await admit(services, requester, agent, message_type=MESSAGE_OFFER)
    return agent.id


def _draft(request: WorkOrderRequest, order_id: str, requester: str, worker: str | None) -> Draft:
    return Draft(
        id=order_id,
        requester_id=requester,
        worker_id=worker,
        title=request.title,
        description=request.description,
        requirements=bytes(request.requirements).decode(),
        capabilities=list(dict.fromkeys(request.capabilities or ())),
        budget_usd=None if request.budget_usd is None else plain(request.budget_usd),
        deadline_at=None if request.deadline_at is None else as_utc(request.deadline_at),
    )
