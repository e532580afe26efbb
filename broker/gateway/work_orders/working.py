"""What the two sides do to a work order: answer it, report on it, end it, call it off."""

from typing import Any

from broker.core.work_order_notices import Particulars
from broker.gateway.call import Call, Reply
from broker.gateway.coordination.caller import AGENT, required_agent
from broker.gateway.work_orders.checking import ActorQuery, order_id_of
from broker.gateway.work_orders.showing import reply_of
from broker.gateway.work_orders.telling import publish
from broker.store.work_order_changes import Wish, change
from schema.errors import NotFound
from schema.times import as_utc
from schema.work_order import Action, CancelRequest, CompleteRequest, ProgressRequest, RespondRequest


async def respond(call: Call[RespondRequest, ActorQuery]) -> Reply:
    """Accept a work order, or reject it. Accepting gives a `lease`: the token to report with, and the time
    until which nobody else can have the order; progress renews it. Of an open order the first acceptance wins
    and a rejection only declines the caller's own offer. No longer pending is 409, unless the lease has
    lapsed: then a directed order may be accepted again by its worker, an open one by anybody it was offered
    to."""
    request = call.body
    if request.action == "reject":
        return await _do(call, Action.REJECT, Particulars(reason=request.rejection_reason))
    estimated = request.estimated_completion
    return await _do(call, Action.ACCEPT, Particulars(estimated=estimated and as_utc(estimated)))


async def complete(call: Call[CompleteRequest, ActorQuery]) -> Reply:
    """Say that the work is done, with its `result`, or that it `failed` and why. Under a lease that somebody
    has taken over: 409 `lease_lost`, and noted in the history."""
    request = call.body
    result = None if bytes(request.result) == b"null" else request.result
    said = Particulars(reason=request.reason, result=result)
    return await _do(call, Action.FAIL if request.failed else Action.COMPLETE, said, token=request.lease)


async def progress(call: Call[ProgressRequest, ActorQuery]) -> Reply:
    """Say how far the work is; renews the lease."""
    said = Particulars(note=call.body.note, percent=call.body.percent)
    return await _do(call, Action.PROGRESS, said, token=call.body.lease)


async def cancel(call: Call[CancelRequest, ActorQuery]) -> Reply:
    """Call a work order off, before it is completed: its requester may."""
    return await _do(call, Action.CANCEL, Particulars(reason=call.body.reason))


async def _do(
    call: Call[Any, ActorQuery],  # any body
    action: Action,
    said: Particulars,
    *,
    token: str | None = None,
) -> Reply:
    services = call.services
    agent_id = await required_agent(call, call.query.agent_id, call.query.from_agent_id, field=AGENT)
    order_id = order_id_of(call.path)
    if order_id is None:
        raise NotFound("no such work order")
    wish = Wish(
        action=action,
        agent_id=agent_id,
        token=token,
        lease_ms=services.settings.work_order_lease_ms,
        said=said,
    )
    changed = await change(services.pool, order_id, wish)
    await publish(services, changed.envelopes)
    return Reply(body=reply_of(changed))
