"""Status by PUT: an agent says what became of a message, or its sender takes it back.

Written straight to Postgres with a guarded update; the recorder never moves a status backwards, so the two
cannot undo each other. Afterwards the recipient's mailbox copy is dropped and waiting senders, on whichever
gateway, are told. Both are only for speed: a failure there changes nothing about the status.
"""

import asyncio
from typing import Any, Final

import msgspec

from broker.gateway.access import require_visible
from broker.gateway.call import Call, NoQuery, Principal, Reply
from broker.gateway.reading import Faults
from broker.gateway.services import Services
from broker.store import messages as stored_messages
from broker.store.messages import TransitionOutcome
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

BY_RECIPIENT: Final = frozenset((Status.DELIVERED, Status.PROCESSED, Status.FAILED))
BY_SENDER: Final = frozenset((Status.CANCELLED,))
_SETTABLE: Final = {status.value: status for status in Status if status in BY_RECIPIENT | BY_SENDER}
_RECEIPTS: Final = {Status.DELIVERED: "delivered", Status.PROCESSED: "processed"}


def check_change(request: StatusChange, faults: Faults) -> None:
    """Note everything wrong with a change of status."""
    if request.status not in _SETTABLE:
        faults.add("status", f"must be one of {', '.join(_SETTABLE)}")
    if request.reason is not None and len(request.reason) > REASON_CHARS_MAX:
        faults.add("reason", f"must have at most {REASON_CHARS_MAX} characters")


async def change_status(call: Call[StatusChange, NoQuery]) -> Reply:
    """Say what became of a message: `processed` with a `result`, or `failed` with a `reason`, by its
    recipient; `cancelled` by its sender while it is pending. Repeating the same is fine; what the life cycle
    does not allow is 409."""
    services, request = call.services, call.body
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
    """Drop the mailbox copy and wake who waits. Without Redis the row still says it all: the copy is dropped
    when it is next looked at, waiters look by themselves."""
    view, entry = outcome.view, outcome.mailbox_entry
    receipt = Receipt(view.id, _RECEIPTS.get(wanted, "ended"))
    try:
        if entry is not None and view.to_agent_id is not None:
            await services.mailboxes.discard(view.to_agent_id, lane_of(view.priority), entry)
        await notifications.publish(await services.link.get(), [(notifications.EVERY_GATEWAY, receipt)])
    except Unavailable:
        return


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
