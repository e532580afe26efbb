"""Contacts: asking to become one, answering, listing, ending.

Row and message of a request or an answer are written together (outbox), so nobody is asked or told anything
that did not happen, and nothing happens that nobody is told of.
"""

from datetime import datetime
from typing import Final

from msgspec import Raw, Struct

from broker.core.contacts import is_active
from broker.gateway.call import Call, Reply
from broker.gateway.coordination.admission import REQUEST_TYPE, admit_request
from broker.gateway.coordination.caller import AGENT, SENDER, required_agent
from broker.gateway.coordination.pings import SenderQuery, other_agent
from broker.gateway.coordination.posting import post, post_committed
from broker.gateway.coordination.presence import CallerQuery
from broker.gateway.reading import Faults
from broker.gateway.services import Services
from broker.store import contacts as stored_contacts
from broker.store.contacts import ContactFilter, Decision
from schema import limits
from schema.codec import encode
from schema.contact import (
    Contact,
    ContactAnswer,
    ContactAnswerContent,
    ContactEnded,
    ContactRequest,
    ContactRequestContent,
    ContactRequestReply,
    ContactsPage,
    ContactStatus,
    ContactView,
    Peer,
)
from schema.errors import NotFound, Rejected
from schema.ids import new_id
from schema.message import Envelope
from schema.times import as_utc, from_ms, to_ms

RESPONSE_TYPE: Final = "contact_response"
_STATUSES: Final = tuple(status.value for status in ContactStatus)
_STATUS_OF: Final = {"accept": ContactStatus.ACCEPTED, "decline": ContactStatus.DECLINED}


class ListContacts(Struct):
    """Query of `GET /api/v1/messaging/contacts`."""

    agent_id: str | None = None
    status: str | None = None
    limit: int = limits.PAGE_ROWS_DEFAULT
    cursor: str | None = None


def check_request(request: ContactRequest, faults: Faults) -> None:
    """Note everything wrong with a contact request."""
    if not 1 <= len(request.subject) <= limits.CONTACT_SUBJECT_CHARS_MAX:
        faults.add("subject", f"must have 1 to {limits.CONTACT_SUBJECT_CHARS_MAX} characters")
    if len(request.body) > limits.CONTACT_BODY_CHARS_MAX:
        faults.add("body", f"must have at most {limits.CONTACT_BODY_CHARS_MAX} characters")
    if not limits.PRIORITY_MIN <= request.priority <= limits.PRIORITY_MAX:
        faults.add("priority", "must be 1 (highest) to 10")


def check_answer(answer: ContactAnswer, faults: Faults) -> None:
    """Note everything wrong with an answer to a request."""
    rate = answer.rate_per_minute
    if rate is not None and not 1 <= rate <= limits.CONTACT_RATE_PER_MINUTE_MAX:
        faults.add("rate_per_minute", f"must be 1 to {limits.CONTACT_RATE_PER_MINUTE_MAX}")
    if answer.expires_at is not None:
        try:
            as_utc(answer.expires_at)
        except OverflowError:
            faults.add("expires_at", "is outside the years 1 to 9999 in UTC")
    if answer.reason is not None and len(answer.reason) > limits.CONTACT_REASON_CHARS_MAX:
        faults.add("reason", f"must have at most {limits.CONTACT_REASON_CHARS_MAX} characters")
    if answer.action == "decline":
        for field, value in (("rate_per_minute", rate), ("expires_at", answer.expires_at)):
            if value is not None:
                faults.add(field, "goes with accepting only")


def check_list(query: ListContacts, faults: Faults) -> None:
    """Note everything wrong with what is asked of a list of contacts."""
    if query.status is not None and query.status not in _STATUSES:
        faults.add("status", f"must be one of {', '.join(_STATUSES)}")
    if query.limit < 1:
        faults.add("limit", f"must be 1 to {limits.PAGE_ROWS_MAX}")


async def request(call: Call[ContactRequest, SenderQuery]) -> Reply:
    """Ask an agent to become a contact: a message of type `contact_request` in its inbox, and an entry in the
    contacts of both that waits for its answer. Asking again repeats the request; between agents that are
    contacts already it is just a message. An agent that takes messages of contacts only takes 12 requests an
    hour from each stranger, and none from one it declined; a closed one takes none at all."""
    services, body = call.services, call.body
    sender = await required_agent(call, call.query.from_agent_id, field=SENDER)
    recipient = await other_agent(services, body.to_agent_id, sender)
    standing = await admit_request(services, sender, recipient)
    content = ContactRequestContent(subject=body.subject, body=body.body)
    message = _message(services, sender, recipient.id, REQUEST_TYPE, content)
    message.priority = body.priority
    now_ms = services.now_ms()
    status = ContactStatus.ACCEPTED
    if standing.is_contact(now_ms):
        await post(services, message)
    else:
        status = ContactStatus.PENDING
        await stored_contacts.ask(services.pool, message, now_ms=now_ms)
        await services.contacts.changed(recipient.id, sender)
        await post_committed(services, message)
    reply = ContactRequestReply(
        success=True,
        message_id=message.id,
        from_agent_id=sender,
        to_agent_id=recipient.id,
        contact_status=status,
    )
    return Reply(status=201, body=reply)


async def respond(call: Call[ContactAnswer, CallerQuery]) -> Reply:
    """Accept or decline a contact request, or answer it otherwise than before. Accepted, both may write to
    each other, the peer at most `rate_per_minute` and until `expires_at` where these are given. The peer is
    told by a message of type `contact_response`; the same answer again changes nothing and tells nobody."""
    services, answer = call.services, call.body
    agent_id = await required_agent(call, call.query.agent_id, field=AGENT)
    peer = await _peer(call)
    now_ms = services.now_ms()
    expires_ms = None if answer.expires_at is None else to_ms(answer.expires_at)
    if expires_ms is not None and expires_ms <= now_ms:
        raise Rejected("expires_at: must lie in the future", field="expires_at")
    decision = Decision(
        status=_STATUS_OF[answer.action],
        rate_per_minute=answer.rate_per_minute,
        expires_ms=expires_ms,
        reason=answer.reason,
    )
    contact, word = await stored_contacts.decide(
        services.pool,
        agent_id=agent_id,
        peer_id=peer.id,
        decision=decision,
        now_ms=now_ms,
        tell=lambda decided: _word(services, decided),
    )
    if word is not None:
        await services.contacts.changed(agent_id, peer.id)
        await post_committed(services, word)
    return Reply(body=_view(contact, agent_id, peer, services.now_ms()))


async def list_(call: Call[None, ListContacts]) -> Reply:
    """List an agent's contacts and requests in both directions, in the order they began. `incoming`: the
    peer asked. `status` chooses among `pending`, `accepted` (expired ones too: see `is_active`) and
    `declined`."""
    services, query = call.services, call.query
    agent_id = await required_agent(call, query.agent_id, field=AGENT)
    page = await stored_contacts.list_page(
        services.pool,
        ContactFilter(
            agent_id=agent_id,
            status=None if query.status is None else ContactStatus(query.status),
            limit=min(query.limit, limits.PAGE_ROWS_MAX),
            cursor=query.cursor,
        ),
    )
    now_ms = services.now_ms()
    views = [
        _view(item.contact, agent_id, Peer(id=_other(item.contact, agent_id), name=item.peer_name), now_ms)
        for item in page.items
    ]
    return Reply(body=ContactsPage(agent_id=agent_id, contacts=views, next_cursor=page.cursor))


async def end(call: Call[None, CallerQuery]) -> Reply:
    """End a contact, or take back a request. Either side may; that the peer has declined stays."""
    services = call.services
    agent_id = await required_agent(call, call.query.agent_id, field=AGENT)
    peer = await _peer(call)
    if not await stored_contacts.end(services.pool, agent_id=agent_id, peer_id=peer.id):
        raise NotFound("there is no such contact")
    await services.contacts.changed(agent_id, peer.id)
    return Reply(body=ContactEnded(success=True, agent_id=agent_id, peer_id=peer.id))


async def _peer(call: Call[ContactAnswer, CallerQuery] | Call[None, CallerQuery]) -> Peer:
    """Return the agent in the path. Raises: NotFound, StoreUnavailable."""
    agent = await call.services.agents.record(call.path["peer"])
    if agent is None:
        raise NotFound("no such agent")
    return Peer(id=agent.id, name=agent.name)


def _word(services: Services, contact: Contact) -> Envelope:
    """Return the message that tells the peer what was decided, as an answer to its request."""
    content = ContactAnswerContent(
        status=contact.status,
        rate_per_minute=contact.rate_per_minute,
        expires_at=_moment(contact.expires_ms),
        reason=contact.reason,
    )
    word = _message(services, contact.agent_id, contact.peer_id, RESPONSE_TYPE, content)
    word.reply_to = word.root_id = contact.message_id
    word.hop = 1
    return word


def _message(services: Services, sender: str, recipient: str, message_type: str, content: Struct) -> Envelope:
    message_id = new_id()
    return Envelope(
        id=message_id,
        from_agent_id=sender,
        to_agent_id=recipient,
        message_type=message_type,
        content=Raw(encode(content)),
        created_at=from_ms(services.now_ms()),
        root_id=message_id,
    )


def _view(contact: Contact, agent_id: str, peer: Peer, now_ms: int) -> ContactView:
    return ContactView(
        agent_id=agent_id,
        peer=peer,
        direction="incoming" if contact.agent_id == agent_id else "outgoing",
        status=contact.status,
        is_active=is_active(contact, now_ms),
        rate_per_minute=contact.rate_per_minute,
        expires_at=_moment(contact.expires_ms),
        reason=contact.reason,
        message_id=contact.message_id,
        created_at=from_ms(contact.created_ms),
        decided_at=_moment(contact.decided_ms),
    )


def _other(contact: Contact, agent_id: str) -> str:
    return contact.peer_id if contact.agent_id == agent_id else contact.agent_id


def _moment(at_ms: int | None) -> datetime | None:
    return None if at_ms is None else from_ms(at_ms)
