"""What follows from the result of one attempt. Pure: time and chance come in as arguments."""

from typing import Final

import msgspec
from msgspec import UNSET, Raw, Struct, UnsetType

from broker.core.quarantine import set_aside
from broker.core.retry import Decision, Verdict, classify, next_attempt, retry_after_ms
from broker.telemetry import logs, metrics
from broker.transport.client import Answer, Failure, FailureKind
from schema.agent import Agent
from schema.delivery import Attempt, AttemptStatus
from schema.ledger import Event, EventKind
from schema.limits import RESPONSE_KEPT_BYTES_MAX
from schema.message import Reason, Status
from workers.delivery.items import Item

RESULT_OK: Final = "ok"
DECLINED: Final = "declined"
"""The `status` in the body of a 2xx, or of a refusal, by which an agent says that it will not do this."""


class Outcome(Struct):
    """`event` for the ledger; `due_ms` when it is tried again (None: it is finished); `healthy`: what the
    breaker learns (None: nothing); `is_gone`: the endpoint answered 410; `reply`: content to send back to the
    sender; `label` for metrics."""

    event: Event
    due_ms: int | None
    healthy: bool | None
    label: str
    reply: Raw | UnsetType = UNSET
    is_gone: bool = False


class _AgentAnswer(Struct):
    """What the body of a 2xx may say beyond "delivered"."""

    status: str | None = None
    result: Raw | UnsetType = UNSET
    reply: Raw | UnsetType = UNSET


_answer_decoder = msgspec.json.Decoder(_AgentAnswer)


def conclude(
    item: Item, result: Answer | Failure, *, agent: Agent, now_ms: int, chance: float, scale: float
) -> Outcome:
    """Decide what one attempt of an item came to."""
    number = item.attempts + 1
    if isinstance(result, Answer) and 200 <= result.status < 300:
        return _delivered(item, result, number=number, now_ms=now_ms)
    if isinstance(result, Answer):
        verdict, label = classify(result.status), f"http_{result.status // 100}xx"
        if verdict is Verdict.REJECTED_RETRY and _declines(result):
            return _declined(item, result, number=number, now_ms=now_ms)
        retry_after = retry_after_ms(result.retry_after, now_ms=now_ms)
        # A refusal of one message says nothing about the health of its endpoint.
        healthy: bool | None = verdict is Verdict.REJECTED_RETRY
    else:
        verdict, label, retry_after = Verdict.RETRY, result.kind.value, None
        healthy = None if result.kind is FailureKind.CANCELLED else False
    decision = next_attempt(
        attempt=number - item.attempts_before,
        verdict=verdict,
        retry_after=retry_after,
        schedule=agent.retry_schedule,
        options=item.options,
        expires_ms=item.expires_ms,
        now_ms=now_ms,
        chance=chance,
        scale=scale,
    )
    attempt = _attempt(item, result, number)
    event = _failed_event(item, decision, attempt, now_ms)
    is_gone = verdict is Verdict.GONE
    return Outcome(event, decision.deliver_again_ms, healthy, label, is_gone=is_gone)


def finished(item: Item, status: Status, reason: Reason, *, now_ms: int) -> Event:
    """Return the event of an item that ends without another attempt."""
    return _event(item, EventKind.SETTLED, status, now_ms, reason=reason.value)


def announced(item: Item, *, now_ms: int) -> Event:
    """Return the event that tells the record of an item that is not settled yet."""
    return _event(item, EventKind.ROUTED, Status.PENDING, now_ms)


def quarantined(mailbox: str, entry: str, raw: bytes, *, error: Exception, now_ms: int) -> Event:
    """Return the event that keeps the bytes of an entry that is no message: `error` came of reading it."""
    detail = f"no message lies there: {type(error).__name__}"
    metrics.QUARANTINED.child().inc()
    logs.warning("deliver.quarantined", stream=mailbox, entry=entry, detail=detail)
    return set_aside(raw, stream=mailbox, entry=entry, detail=detail, now_ms=now_ms)


def _delivered(item: Item, answer: Answer, *, number: int, now_ms: int) -> Outcome:
    said = _read(answer.body)
    if said.status == DECLINED:
        return _declined(item, answer, number=number, now_ms=now_ms)
    status = Status.PROCESSED if said.status == "processed" else Status.DELIVERED
    event = _event(item, EventKind.SETTLED, status, now_ms, attempt=_attempt(item, answer, number))
    if status is Status.PROCESSED:
        event.result = said.result
    if event.result is UNSET and said.reply is not UNSET and item.sender is None:
        # Nobody to send it to: whoever published the message finds it there.
        event.result = said.reply
    return Outcome(event, None, True, RESULT_OK, said.reply)


def _declines(answer: Answer) -> bool:
    return may_speak(answer.body) and _read(answer.body).status == DECLINED


def _declined(item: Item, answer: Answer, *, number: int, now_ms: int) -> Outcome:
    """Return what comes of an agent's "not me": its endpoint is well, and it is not asked again."""
    attempt = _attempt(item, answer, number)
    attempt.status = AttemptStatus.FAILED
    attempt.error = "declined"
    event = _event(
        item, EventKind.SETTLED, Status.FAILED, now_ms, attempt=attempt, reason=Reason.DECLINED.value
    )
    return Outcome(event, None, True, "declined")


def _failed_event(item: Item, decision: Decision, attempt: Attempt, now_ms: int) -> Event:
    if decision.deliver_again_ms is not None:
        event = _event(item, EventKind.ATTEMPTED, Status.PENDING, now_ms, attempt=attempt)
        event.next_attempt_ms = decision.deliver_again_ms
        return event
    reason = decision.reason or Reason.EXHAUSTED
    status = Status.EXPIRED if reason is Reason.EXPIRED else Status.FAILED
    return _event(item, EventKind.SETTLED, status, now_ms, attempt=attempt, reason=reason.value)


def _event(
    item: Item,
    kind: EventKind,
    status: Status,
    now_ms: int,
    *,
    attempt: Attempt | None = None,
    reason: str | None = None,
) -> Event:
    whole = UNSET if item.announced else Raw(item.body)
    return Event(
        kind=kind,
        id=item.id,
        at_ms=now_ms,
        message=whole,
        to=item.mailbox.endpoint.agent.id,
        status=status,
        reason=reason,
        attempt=attempt,
        mailbox_entry=item.entry if kind is EventKind.ROUTED else None,
        route=UNSET if item.route is None or item.announced else Raw(item.route),
        waiter=item.waiter or None,
        round=item.round,
    )


def _attempt(item: Item, result: Answer | Failure, number: int) -> Attempt:
    if isinstance(result, Answer):
        good = 200 <= result.status < 300
        return Attempt(
            number=number,
            status=AttemptStatus.SUCCESS if good else AttemptStatus.FAILED,
            attempted_ms=item.started_ms,
            duration_ms=result.duration_ms,
            response_code=result.status,
            response_body=kept_text(result.body),
            round=item.round,
            agent_id=item.mailbox.endpoint.agent.id if item.requirements else None,
        )
    timed_out = result.kind is FailureKind.TIMEOUT
    return Attempt(
        number=number,
        status=AttemptStatus.TIMEOUT if timed_out else AttemptStatus.FAILED,
        attempted_ms=item.started_ms,
        duration_ms=result.duration_ms,
        error=f"{result.kind.value}: {result.message}",
        round=item.round,
        agent_id=item.mailbox.endpoint.agent.id if item.requirements else None,
    )


def kept_text(body: bytes) -> str | None:
    """Return what is kept of a response body: text Postgres can store."""
    if not body:
        return None
    return (
        body[:RESPONSE_KEPT_BYTES_MAX].decode("utf-8", "replace").replace("\x00", "\N{REPLACEMENT CHARACTER}")
    )


def may_speak(body: bytes) -> bool:
    """Tell whether the body of a 2xx can say more than "delivered"."""
    # `find`, because `in` costs bytes an exception inside before it looks.
    return len(body) >= _SPEAKS_BYTES_MIN and (body.find(b'"status"') >= 0 or body.find(b'"reply"') >= 0)


_SILENT: Final = _AgentAnswer()
_SPEAKS_BYTES_MIN: Final = len(b'{"reply":{}}')


def _read(body: bytes) -> _AgentAnswer:
    if not may_speak(body):
        return _SILENT
    try:
        said = _answer_decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return _SILENT
    if said.reply is not UNSET and bytes(said.reply)[:1] != b"{":
        # The content of a message is an object; an agent that says `"reply": null` has none to send.
        said.reply = UNSET
    return said
