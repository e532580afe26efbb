"""Waiting for the reply to a message: `wait=reply`.

What counts is in Postgres: the message's row, and what was recorded with its id in `reply_to`, whichever way
the recipient answered and whichever shard that went through. Receipts only say when to look. The row is read
first: a reply that was recorded before the message ended is then seen together with its end.

A message can be over without a reply. One that failed, expired or was cancelled gets none; of one that was
processed the reply may be a moment behind, because it travels by itself: it is waited for a little, and as
long as there is time when the body of the recipient's answer carried it.
"""

from collections.abc import Callable
from contextlib import suppress
from typing import Final

import msgspec
from msgspec import MsgspecError, Raw, Struct

from broker.gateway.services import Services
from broker.gateway.status import tell_change
from broker.gateway.waiting import LOOK_AGAIN_MS, LOOK_FIRST_MS, ReplyWaiter, Rung
from broker.store import attempts as stored_attempts
from broker.store import messages as stored_messages
from schema.delivery import AttemptStatus
from schema.errors import Conflict, NotFound, StoreUnavailable, Unavailable
from schema.limits import RESPONSE_KEPT_BYTES_MAX
from schema.message import MessageView, Status

LOOK_MS_MAX: Final = 2_000
GRACE_MS: Final = 300
"""How long a processed message's reply may be behind it: several times what routing and recording take."""

_UNANSWERED: Final = frozenset((Status.FAILED.value, Status.EXPIRED.value, Status.CANCELLED.value))


class Question(Struct, frozen=True):
    """The message that a reply is wanted to. `sender` None: an operator who named nobody."""

    id: str
    sender: str | None
    sent_ms: int


class Answer(Struct):
    """How far the message got (None: not recorded), and the reply (None: there is none, or not yet)."""

    message: MessageView | None = None
    reply: MessageView | None = None


class _Said(Struct):
    """The part of a recipient's answer that replies."""

    reply: Raw = Raw(b"")


_said = msgspec.json.Decoder(_Said)


async def wait_for_reply(
    services: Services,
    waiter: ReplyWaiter,
    question: Question,
    *,
    timeout_ms: int,
    clock: Callable[[], float],
    is_gone: Callable[[], bool],
) -> Answer:
    """Return the reply as soon as it is recorded, or what there is when the message is over or time is.

    A reply to an agent that pulls has reached it with this: it is `delivered`, and its mailbox copy is
    dropped. One whose caller `is_gone` is left for its inbox. `clock`: seconds, monotonic.
    """
    deadline_s = clock() + timeout_ms / 1000
    answer, over_s = Answer(), deadline_s
    pause_ms, soon_ms = float(LOOK_FIRST_MS), float(LOOK_AGAIN_MS)
    processed = False
    while waiter.wanted > Rung.ACCEPTED and not is_gone():
        left_ms = (min(deadline_s, over_s) - clock()) * 1000
        if left_ms <= 0:
            break
        if waiter.reached >= Rung.PROCESSED and not processed:
            # It is over and being recorded at this moment.
            await waiter.heard(min(soon_ms, left_ms))
            soon_ms *= 2
        else:
            await waiter.heard(min(pause_ms, left_ms))
            pause_ms = min(pause_ms * 2, LOOK_MS_MAX)
        try:
            answer = await _look(services, question)
            if answer.reply is not None or _is_over(answer.message, question):
                break
            if not processed and answer.message is not None and _is_processed(answer.message):
                processed = True
                if not await _announced(services, question.id):
                    over_s = clock() + GRACE_MS / 1000
        except StoreUnavailable:
            break
    if answer.reply is not None and not is_gone():
        answer.reply = await _hand_over(services, question, answer.reply)
    return answer


async def _look(services: Services, question: Question) -> Answer:
    message = await stored_messages.get(services.pool, question.id)
    if message is None or message.from_agent_id != question.sender:
        return Answer(message)
    replies = await stored_messages.replies_to(services.pool, question.id, sent_ms=question.sent_ms)
    return Answer(message, next((reply for reply in replies if _answers(reply, message)), None))


def _answers(reply: MessageView, message: MessageView) -> bool:
    """Tell whether this is the sender's to read: any agent may write any id into `reply_to`."""
    if message.from_agent_id is None:
        return message.to_agent_id is not None and reply.from_agent_id == message.to_agent_id
    return reply.to_agent_id == message.from_agent_id


def _is_over(message: MessageView | None, question: Question) -> bool:
    """Tell whether there will be no reply: the message has ended badly, or holds it as its result (nobody was
    named as sender), or is another one of the same id."""
    if message is None:
        return False
    if message.from_agent_id != question.sender:
        return True
    answered_in_result = message.status == Status.DELIVERED.value and message.result is not None
    return message.status in _UNANSWERED or answered_in_result


def _is_processed(message: MessageView) -> bool:
    return message.status == Status.PROCESSED.value


async def _announced(services: Services, message_id: str) -> bool:
    """Tell whether the recipient's answer to a push carried a reply, as far as the record has kept it."""
    made = await stored_attempts.of_message(services.pool, message_id)
    return any(
        attempt.status == AttemptStatus.SUCCESS.value and _carries_reply(attempt.response_body or "")
        for attempt in made
    )


def _carries_reply(body: str) -> bool:
    if '"reply"' not in body:
        return False
    try:
        return bytes(_said.decode(body.encode()).reply)[:1] == b"{"
    except MsgspecError:
        return len(body.encode()) >= RESPONSE_KEPT_BYTES_MAX  # cut off


async def _hand_over(services: Services, question: Question, reply: MessageView) -> MessageView:
    """Note that the sender has the reply, where nothing will push it; return the reply as it is then."""
    if question.sender is None or reply.status != Status.PENDING.value:
        return reply
    # Without a store, or beaten by another reader, it may be shown once more: at least once, never less.
    with suppress(Unavailable, Conflict, NotFound):
        sender = await services.agents.record(question.sender)
        if sender is None or sender.endpoint is not None:
            return reply
        outcome = await stored_messages.transition(
            services.pool, reply.id, Status.DELIVERED, now_ms=services.now_ms()
        )
        await tell_change(services, outcome, Status.DELIVERED)
        return outcome.view
    return reply
