"""Sending a message: publish it, wait for as much of what becomes of it as is asked, and show it."""

import time
from typing import Final, Literal

from msgspec import UNSET, Raw, Struct

from broker.gateway.accepting import accept
from broker.gateway.access import acting_agent
from broker.gateway.call import Call, Reply
from broker.gateway.idempotency import once
from broker.gateway.reading import Faults
from broker.gateway.reply_waiting import Question, wait_for_reply
from broker.gateway.services import Services
from broker.gateway.waiting import Expectation, Rung, Waiter, wait_for_row
from broker.store import messages as stored_messages
from broker.telemetry import metrics
from schema import limits
from schema.errors import Conflict, StoreUnavailable
from schema.ids import made_ms
from schema.ledger import Progress, Receipt
from schema.message import Envelope, MessageView, SendRequest, Status
from schema.times import to_ms

PUBLISHED: Final = metrics.PUBLISHED.child(door="http")
_PENDING, _DELIVERED = Status.PENDING.value, Status.DELIVERED.value
REPLY: Final = "reply"
ANSWERED_ROW_WAIT_MS: Final = 150
"""How long the message that a new one answers may be missing before it counts as unknown."""
_RUNGS: Final = {rung.name.lower(): rung for rung in Rung}


class SendQuery(Struct):
    """Query of `POST /api/messages`."""

    wait: Literal["accepted", "recorded", "delivered", "processed", "reply"] = "recorded"
    timeout_ms: int = limits.WAIT_MS_DEFAULT
    from_agent_id: str | None = None


def check_wait(query: SendQuery, faults: Faults) -> None:
    """Note everything wrong with how long a sender wants to wait."""
    if not 0 <= query.timeout_ms <= limits.WAIT_MS_MAX:
        faults.add("timeout_ms", f"must be 0 to {limits.WAIT_MS_MAX}")


async def send(call: Call[SendRequest, SendQuery]) -> Reply:
    """Send a message to a named agent, or to whichever is capable of its `requirements`.

    201 tells how far it got: `wait` says which rung to wait for (`recorded` unless told otherwise), for
    `timeout_ms` at most; running out of time is no error. With `wait=accepted` the reply is 202, as soon as
    the message is on disk. A message sent again under its own `id` is sent once.

    With `wait=reply` the message comes back with its `reply`: the first message its recipient sends with this
    one's id in `reply_to`, or answers a push with. `reply` is null when time ran out, and when there will be
    none: `status`, `result` and `status_reason` say how the message ended. An agent that pulls gets its reply
    this way and not again in its inbox. Where nobody is named as sender there is nobody to send a reply to:
    what the recipient answers a push with is then the message's `result`.
    """
    sender = await acting_agent(call, call.body.from_agent_id, call.query.from_agent_id)
    return await once(call, "sendMessage", sender, lambda message_id: _send(call, sender, message_id))


def expect(services: Services, request: SendRequest, envelope: Envelope, wanted: Rung) -> Expectation[Waiter]:
    """Return the registration of a waiter for the message this request asked for."""
    waiters = services.waiters
    return (waiters.expect_own if request.id is None else waiters.expect)(envelope.id, wanted)


async def publish_and_wait(
    services: Services, envelope: Envelope, expectation: Expectation[Waiter], *, timeout_ms: int
) -> MessageView:
    """Publish a message; return it as it is when what is expected of it has come, or time is up.

    Raises: Conflict when another message has its id; StreamsUnavailable, StreamsFull.
    """
    with expectation as waiter:
        await services.publish([envelope], waiter=services.gateway_id)
        PUBLISHED.inc()
        row = await wait_for_row(services.pool, waiter, timeout_ms=timeout_ms, clock=time.monotonic)
    if waiter.progress is not None:
        return _recorded_view(envelope, waiter.progress)
    if row is None:
        return pending_view(envelope, waiter.reached)
    if row.from_agent_id != envelope.from_agent_id:
        raise Conflict("another message has this id", field="id")
    return row


def is_new(services: Services, request: SendRequest) -> bool:
    """Tell whether the streams would know this id if the message had been sent before: one of our making, or
    one made within the deduplication window."""
    if request.id is None:
        return True
    age_ms = services.now_ms() - (made_ms(request.id.lower()) or 0)
    return 0 <= age_ms < services.settings.dedup_window_ms // 2


async def sent_before(services: Services, request: SendRequest, sender: str | None) -> MessageView | None:
    """Return the message already sent under this id, where the streams may have forgotten it.

    An id made a moment ago cannot be older than the deduplication window, so it costs no query.
    """
    if is_new(services, request):
        return None
    assert request.id is not None
    try:
        row = await stored_messages.get(services.pool, request.id.lower())
    except StoreUnavailable:
        return None  # publishing goes on; within the window the streams deduplicate
    if row is not None and row.from_agent_id != sender:
        raise Conflict("another message has this id", field="id")
    return row


def reply_of(services: Services, message: MessageView, status: int) -> Reply:
    """Return the reply that shows a message to its publisher."""
    if services.durability is not None:
        message.durability = services.durability
    return Reply(status=status, body=message, headers=(("Location", f"/api/messages/{message.id}"),))


def pending_view(envelope: Envelope, reached: Rung = Rung.ACCEPTED) -> MessageView:
    """Return the message as far as this gateway knows it without a row."""
    assert envelope.created_at is not None
    delivered = reached is Rung.DELIVERED
    return MessageView(
        id=envelope.id,
        from_agent_id=envelope.from_agent_id,
        to_agent_id=envelope.to_agent_id,
        conversation_id=envelope.conversation_id,
        message_type=envelope.message_type,
        priority=envelope.priority,
        content=envelope.content,
        metadata=envelope.metadata,
        status=_DELIVERED if delivered else _PENDING,
        retry_count=0,
        expires_at=envelope.expires_at,
        created_at=envelope.created_at,
        delivered_at=None,
        processed_at=None,
        result=None,
        status_reason=None,
        reply_to=envelope.reply_to,
        root_id=envelope.root_id,
        hop=envelope.hop,
        deliver_at=None if envelope.deliver_at is UNSET else envelope.deliver_at,
    )


async def _send(call: Call[SendRequest, SendQuery], sender: str | None, message_id: str | None) -> Reply:
    """Send under this id, unless the sender has chosen one itself."""
    services, query = call.services, call.query
    if call.body.id is None:
        call.body.id = message_id
    if (earlier := await sent_before(services, call.body, sender)) is not None:
        if query.wait == REPLY:
            earlier = await _answered(call, earlier)
        return reply_of(services, earlier, 201)
    envelope = await accept(services, call.body, sender, answered_within_ms=ANSWERED_ROW_WAIT_MS)
    services.gatekeeper.spend(call.principal.metered, envelope)
    if query.wait == REPLY:
        return reply_of(services, await _answered(call, envelope), 201)
    wanted = _RUNGS[query.wait]
    if wanted is Rung.ACCEPTED:
        await services.publish([envelope])
        PUBLISHED.inc()
        return reply_of(services, pending_view(envelope), 202)
    expectation = expect(services, call.body, envelope, wanted)
    row = await publish_and_wait(services, envelope, expectation, timeout_ms=query.timeout_ms)
    return reply_of(services, row, 201)


async def _answered(call: Call[SendRequest, SendQuery], message: Envelope | MessageView) -> MessageView:
    """Publish a message, unless it is one sent before, wait for the reply, and return both.

    Raises: Conflict when another message has its id.
    """
    assert message.created_at is not None
    services = call.services
    question = Question(message.id, message.from_agent_id, to_ms(message.created_at))
    with services.waiters.expect_reply(message.id) as waiter:
        if isinstance(message, Envelope):
            await services.publish([message], waiter=services.gateway_id)
            PUBLISHED.inc()
        else:
            waiter.hear(Receipt(message.id, "recorded"))
        answer = await wait_for_reply(
            services,
            waiter,
            question,
            timeout_ms=call.query.timeout_ms,
            clock=time.monotonic,
            is_gone=call.is_gone,
        )
    row = answer.message
    if row is None:
        row = pending_view(message, waiter.reached) if isinstance(message, Envelope) else message
    if row.from_agent_id != message.from_agent_id:
        raise Conflict("another message has this id", field="id")
    row.reply = answer.reply
    return row


def _recorded_view(envelope: Envelope, progress: Progress) -> MessageView:
    """Return the message as its row shows it."""
    view = pending_view(envelope)
    view.status, view.to_agent_id, view.retry_count = progress.status, progress.to, progress.retry_count
    view.delivered_at, view.processed_at = progress.delivered_at, progress.processed_at
    view.next_attempt_at, view.status_reason = progress.next_attempt_at, progress.reason
    view.result = None if progress.result is None else Raw(progress.result.encode())
    return view
