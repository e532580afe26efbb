"""Status by PUT: an agent says what became of a message, or its sender takes it back.

Written straight to Postgres with a guarded update; the recorder never moves a status backwards, so the two
cannot undo each other. Afterwards the copy on the streams is dropped, and only then is the change confirmed:
else the recipient might be shown what it has acknowledged. When Redis is away that is 503, and the caller
says it again, which is harmless. Waiting senders, on whichever gateway, are told last, for speed only.
"""

import asyncio
from contextlib import suppress
from typing import Any, Final

import msgspec

from broker.core.parking import Signature
from broker.gateway.access import require_visible
from broker.gateway.call import Call, NoQuery, Principal, Reply
from broker.gateway.dead_letters import age_ms_max, publish_committed
from broker.gateway.reading import Faults
from broker.gateway.services import Services
from broker.store import declining
from broker.store import messages as stored_messages
from broker.store.messages import StoredMessage, TransitionOutcome
from broker.streams import notifications
from schema.errors import AgentMismatch, NotFound, Unavailable
from schema.ids import is_id
from schema.ledger import Receipt
from schema.message import MessageView, Status, StatusChange, lane_of

ROW_WAIT_MS: Final = 2_000
"""How long a message may be missing before it counts as unknown: the ledger is asynchronous, and an agent may
answer a push before its row is committed."""
ROW_LOOK_MS: Final = 20
REASON_CHARS_MAX: Final = 500

DECLINED: Final = "declined"
"""What a recipient may say, though no message has it for its status."""
BY_RECIPIENT: Final = frozenset((Status.DELIVERED, Status.PROCESSED, Status.FAILED))
BY_SENDER: Final = frozenset((Status.CANCELLED,))
_SETTABLE: Final = {status.value: status for status in Status if status in BY_RECIPIENT | BY_SENDER}
_RECEIPTS: Final = {Status.DELIVERED: "delivered", Status.PROCESSED: "processed"}


def check_change(request: StatusChange, faults: Faults) -> None:
    """Note everything wrong with a change of status."""
    if request.status not in _SETTABLE and request.status != DECLINED:
        faults.add("status", f"must be one of {', '.join(_SETTABLE)}, {DECLINED}")
    if request.reason is not None and len(request.reason) > REASON_CHARS_MAX:
        faults.add("reason", f"must have at most {REASON_CHARS_MAX} characters")


async def change_status(call: Call[StatusChange, NoQuery]) -> Reply:
    """Say what became of a message: `processed` with a `result`, or `failed` with a `reason`, by its
    recipient; `cancelled` by its sender while it is pending. Repeating the same is fine; what the life cycle
    does not allow is 409.

    `declined`, by its recipient: it will not do it. Where capabilities were matched, the message goes on to
    another agent in its next round; else it fails.
    """
    services, request = call.services, call.body
    if request.status == DECLINED:
        return await _decline(call)
    wanted = _SETTABLE[request.status]
    message = await recorded_message(call)
    _check_role(call.principal, message, wanted)
    outcome = await stored_messages.transition(
        services.pool,
        message.id,
        wanted,
        result=_given(request.result),
        reason=request.reason,
        now_ms=services.now_ms(),
    )
    await tell_change(services, outcome, wanted)
    return Reply(body=outcome.view)


async def _decline(call: Call[StatusChange, NoQuery]) -> Reply:
    services = call.services
    message = await recorded_message(call)
    _check_role(call.principal, message, Status.FAILED)
    declined = await declining.decline(
        services.pool, message.id, now_ms=services.now_ms(), age_ms_max=age_ms_max(services)
    )
    if declined.again is None:
        await tell_change(services, TransitionOutcome(declined.former, changed=True), Status.FAILED)
    else:
        # The former copy first: it is of a round that is over, but whoever declined need not see it again.
        await drop_copy(services, declined.former)
        await publish_committed(services, [declined.again])
    row = await stored_messages.get(services.pool, message.id)
    return Reply(body=declined.former.view if row is None else row)


async def recorded_message(call: Call[Any, Any]) -> MessageView:  # any body, any query
    """Return the message in the path, giving the recorder time to write one that was only just delivered.

    Raises: NotFound, also for a foreign one.
    """
    message_id = call.path["message_id"].lower()
    if not is_id(message_id):
        raise NotFound("no such message")
    row = await row_within(call.services, message_id, within_ms=ROW_WAIT_MS)
    return require_visible(call.principal, row)


async def row_within(services: Services, message_id: str, *, within_ms: int) -> MessageView | None:
    """Return a message that may be recorded at this moment; None when it is not there by then, or when the
    gateway drains. Raises: StoreUnavailable."""
    pause_ms, waited_ms = ROW_LOOK_MS, 0
    while (row := await stored_messages.get(services.pool, message_id)) is None:
        if waited_ms >= within_ms or services.draining:
            break
        await asyncio.sleep(pause_ms / 1000)
        waited_ms += pause_ms
        pause_ms *= 2
    return row


async def tell_change(services: Services, outcome: TransitionOutcome, wanted: Status) -> None:
    """Drop the copy on the streams and wake who waits.

    Raises: StreamsUnavailable: the row says it, but the copy may be there; saying it again drops it.
    """
    await drop_copy(services, outcome.stored)
    receipt = Receipt(outcome.view.id, _RECEIPTS.get(wanted, "ended"))
    with suppress(Unavailable):
        await notifications.publish(await services.link.get(), [(notifications.EVERY_GATEWAY, receipt)])


async def drop_copy(services: Services, message: StoredMessage) -> None:
    """Drop a message that has ended from wherever on the streams it waits. Raises: StreamsUnavailable.

    What is between two places at this moment (its time has come, somebody capable is there, it goes on to
    another) the router drops; what it has routed just before, and nobody has recorded, is not found.
    """
    view, entry, mailboxes = message.view, message.mailbox_entry, services.mailboxes
    lane = lane_of(view.priority)
    # Of several rounds, or for whoever can do it: it may be on its way to a mailbox for another time.
    taken_back = view.status == Status.CANCELLED.value and bool(message.requirements or message.round)
    if view.deliver_at is not None or view.to_agent_id is None or taken_back:
        needs = Signature(message.requirements, view.message_type, lane)
        parked = entry if view.to_agent_id is None else None
        await mailboxes.withdraw(view.id, message_round=message.round, needs=needs, entry=parked)
    if view.to_agent_id is None:
        return
    if entry is None and (message.round or view.deliver_at is not None):
        # It may have been put there, and even read there, without the recorder having come to it.
        entry = await mailboxes.find(view.to_agent_id, lane, view.id)
    if entry is not None:
        await mailboxes.discard(view.to_agent_id, lane, entry)


def _given(result: msgspec.Raw) -> bytes | None:
    raw = bytes(result)
    return None if raw == b"null" else raw


def _check_role(principal: Principal, message: MessageView, wanted: Status) -> None:
    """Raises: AgentMismatch when it is not for this side of the message to say."""
    if principal.is_operator:
        return
    side = message.from_agent_id if wanted in BY_SENDER else message.to_agent_id
    if principal.agent_id != side:
        who = "sender" if wanted in BY_SENDER else "recipient"
        raise AgentMismatch(f"only the {who} may set {wanted.value}")
