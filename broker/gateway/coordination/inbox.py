"""The inbox of an agent, and saying that a message was read.

An inbox is what is recorded for its agent; reading it changes nothing. A message is acknowledged by being
marked as read (`delivered`) or finished (`processed`, `failed`), over any of the ways an agent has, and from
then on none of them shows it as pending.
"""

from typing import Final

import msgspec
from msgspec import Raw, Struct

from broker.gateway.access import acting_agent
from broker.gateway.call import Call, Reply
from broker.gateway.reading import Faults
from broker.gateway.services import Services
from broker.gateway.status import drop_copy, recorded_message, tell_change
from broker.store import inbox as stored_inbox
from broker.store import messages as stored_messages
from broker.store.inbox import InboxFilter, Total
from broker.store.page import Page
from schema import limits
from schema.errors import AgentMismatch, IllegalTransition, NotFound, Rejected
from schema.inbox import InboxMessage, InboxReply, MarkReadReply, SenderView
from schema.message import MessageView, Status
from schema.presence import PING_TYPE

ALL: Final = "all"
_STATUSES: Final = (*(status.value for status in Status), ALL)
_READ: Final = frozenset((Status.DELIVERED.value, Status.PROCESSED.value))


class InboxQuery(Struct):
    """Query of `GET /api/v1/messaging/inbox`."""

    agent_id: str | None = None
    status: str = Status.PENDING.value
    type: str | None = None
    limit: int = limits.PAGE_ROWS_DEFAULT
    cursor: str | None = None
    wait_ms: int = 0


class AgentQuery(Struct):
    """Query of an operation whose caller may have to say as whom it acts."""

    agent_id: str | None = None


class _Texts(Struct):
    """The parts of a content that are shown by themselves."""

    subject: Raw = Raw(b"")
    body: Raw = Raw(b"")
    message: Raw = Raw(b"")


_texts = msgspec.json.Decoder(_Texts)
_text = msgspec.json.Decoder(str)


def check_inbox(query: InboxQuery, faults: Faults) -> None:
    """Note everything wrong with what is asked of an inbox."""
    if query.status not in _STATUSES:
        faults.add("status", f"must be one of {', '.join(_STATUSES)}")
    if query.limit < 1:
        faults.add("limit", f"must be 1 to {limits.PAGE_ROWS_MAX}")
    if not 0 <= query.wait_ms <= limits.INBOX_WAIT_MS_MAX:
        faults.add("wait_ms", f"must be 0 to {limits.INBOX_WAIT_MS_MAX}")


async def show(call: Call[None, InboxQuery]) -> Reply:
    """Show the inbox of an agent, the most urgent and oldest first: what is `pending` unless `status` says
    otherwise (`all`: everything it ever got that is still kept).

    With `wait_ms`, an empty page is held back until something arrives or the time is over. `total_messages`
    counts what matches, on whatever page; beyond 10,000 it stays there and `total_is_lower_bound` is true.
    `next_cursor` asks for the next page, and is null on the last: what arrives meanwhile neither repeats nor
    hides anything. Reading changes nothing; see `mark-read`.
    """
    services, query = call.services, call.query
    wanted = InboxFilter(
        agent_id=await _whose(call, query.agent_id),
        status=None if query.status == ALL else Status(query.status),
        message_type=query.type,
        limit=min(query.limit, limits.PAGE_ROWS_MAX),
        cursor=query.cursor,
    )
    page = await services.arrivals.look(
        wanted.agent_id,
        lambda: stored_inbox.page(services.pool, wanted, now_ms=services.now_ms()),
        found=lambda page: bool(page.items),
        wait_ms=query.wait_ms,
    )
    total = await _total(services, wanted, page)
    names = await services.sender_names.of(
        view.from_agent_id for view in page.items if view.from_agent_id is not None
    )
    return Reply(
        body=InboxReply(
            agent_id=wanted.agent_id,
            total_messages=total.count,
            total_is_lower_bound=total.is_lower_bound,
            messages=[inbox_message(view, names) for view in page.items],
            next_cursor=page.cursor,
        )
    )


async def mark_read(call: Call[None, AgentQuery]) -> Reply:
    """Say that a message was read: it is `delivered` and no longer pending, on no way to its agent.

    Only the recipient may. Repeating it is fine, and so is marking what was processed: `read_at` stays the
    first. A message that failed, expired or was cancelled cannot be read any more (409).
    """
    services = call.services
    reader = await _whose(call, call.query.agent_id)
    message = await recorded_message(call)
    if message.to_agent_id != reader:
        if reader == message.from_agent_id:
            raise AgentMismatch("only the recipient may mark a message as read")
        raise NotFound("no such message")
    if message.status not in _READ:
        message = await _read(services, message.id)
    elif (stored := await stored_messages.find(services.pool, message.id)) is not None:
        # Said again because it was not confirmed: the copy may still be there.
        await drop_copy(services, stored)
    read_at = message.delivered_at or message.processed_at
    assert read_at is not None
    return Reply(
        body=MarkReadReply(success=True, message_id=message.id, read_at=read_at, status=message.status)
    )


def inbox_message(view: MessageView, names: dict[str, str]) -> InboxMessage:
    """Return a message as its recipient sees it. `names`: of senders, by id."""
    sender = view.from_agent_id
    subject, body = _texts_of(view)
    return InboxMessage(
        message_id=view.id,
        from_agent=None if sender is None else SenderView(id=sender, name=names.get(sender)),
        type=view.message_type,
        subject=subject,
        body=body,
        priority=view.priority,
        content=view.content,
        created_at=view.created_at,
        status=view.status,
        conversation_id=view.conversation_id,
        reply_to=view.reply_to,
        expires_at=view.expires_at,
        delivered_at=view.delivered_at,
        metadata=view.metadata,
        hop=view.hop,
    )


async def _whose(call: Call[None, AgentQuery] | Call[None, InboxQuery], claimed: str | None) -> str:
    """Return the agent the caller acts as.

    Raises: AgentMismatch; Rejected when an operator names nobody; NotFound when there is no such agent.
    """
    if call.principal.is_operator:
        named = claimed if claimed is not None else call.claimed_agent
        if named is None:
            raise Rejected("agent_id: say whose inbox it is", field="agent_id")
        return await call.services.agents.named(named)
    own = await acting_agent(call, claimed)
    assert own is not None
    return own


async def _total(services: Services, wanted: InboxFilter, page: Page[MessageView]) -> Total:
    """Count what matches; a page that holds all of it has been counted."""
    if wanted.cursor is None and page.cursor is None:
        return Total(len(page.items))
    return await services.inbox_totals.of(wanted, now_ms=services.now_ms())


async def _read(services: Services, message_id: str) -> MessageView:
    """Move a pending message to `delivered`. Raises: IllegalTransition when it has ended unread."""
    try:
        outcome = await stored_messages.transition(
            services.pool, message_id, Status.DELIVERED, now_ms=services.now_ms()
        )
    except IllegalTransition:
        # It may have been processed since it was looked at, and then it was read as well.
        message = await stored_messages.get(services.pool, message_id)
        if message is None or message.status not in _READ:
            raise
        return message
    await tell_change(services, outcome, Status.DELIVERED)
    return outcome.view


def _texts_of(view: MessageView) -> tuple[str | None, str | None]:
    """Return subject and body; of a ping, what it says."""
    texts = _texts.decode(view.content)
    said = texts.message if view.message_type == PING_TYPE else texts.body
    return _string(texts.subject), _string(said)


def _string(raw: Raw) -> str | None:
    return _text.decode(raw) if bytes(raw)[:1] == b'"' else None
