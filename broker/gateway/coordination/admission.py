"""Who may write to whom over HTTP: contact policies and rates, enforced before a message is published.

Only where an agent is named as the recipient: who asks for capabilities writes to nobody in particular, and
an agent that offers some takes what they bring. An operator that names no sender always passes, and the
broker's own messages (answers to requests, errors, work order updates) are never asked. Native publishers are
the deployment's own processes and are not asked either.

While Postgres is away: agents that take messages of everybody go on getting them (under the rates that are
remembered), senders to the others hear 503. A gateway that has not met a recipient before cannot know its
policy then and lets the message pass: that publishing goes on without Postgres is the older promise.
"""

import asyncio
import math
from typing import Final

from broker.core.contacts import STRANGERS, Standing, may_ask, may_write
from broker.gateway.known_agents import unknown_recipient
from broker.gateway.services import Services
from broker.store import messages as stored_messages
from broker.telemetry import metrics
from schema.agent import Agent, AgentStatus, ContactPolicy
from schema.errors import NotAContact, RateLimited, RecipientDisabled, StoreUnavailable
from schema.ids import is_id
from schema.limits import CONTACT_REQUESTS_PER_HOUR_MAX
from schema.message import MessageView

REQUEST_TYPE: Final = "contact_request"
MINUTE_MS: Final = 60_000
HOUR_MS: Final = 60 * MINUTE_MS
ROW_WAIT_MS: Final = 1_000
"""How long a message that is answered may be missing: an agent may answer before its row is committed."""
ROW_LOOK_MS: Final = 20

_NOT_A_CONTACT: Final = metrics.REFUSED.child(reason="not_a_contact")
_CLOSED: Final = metrics.REFUSED.child(reason="closed")
_RATE: Final = metrics.REFUSED.child(reason="rate_limited")
_STORE_AWAY: Final = metrics.REFUSED.child(reason="store_away")


async def addressed(services: Services, reference: str) -> tuple[str, Agent | None]:
    """Return the recipient's id and record; without the record where a UUID has to be trusted.

    Raises: UnknownRecipient; StoreUnavailable for a name that cannot be looked up, and for an agent known to
    choose its senders.
    """
    try:
        agent = await services.agents.record(reference)
    except StoreUnavailable:
        agent_id = reference.lower()
        if not is_id(agent_id):
            raise
        if services.contacts.was_guarded(agent_id):
            _STORE_AWAY.inc()
            raise
        return agent_id, None
    if agent is None:
        raise unknown_recipient(reference)
    return agent.id, agent


def passes(services: Services, sender_id: str | None, recipient: Agent) -> bool:
    """Tell whether `admit` lets every message of this sender pass without asking anybody; else ask it."""
    if recipient.status is AgentStatus.DISABLED or recipient.contact_policy is not ContactPolicy.OPEN:
        return False
    services.contacts.note_policy(recipient.id, is_open=True)
    return sender_id in (None, recipient.id) or not services.contacts.may_have_rate(recipient.id)


def takes_all(services: Services, recipient: Agent) -> bool:
    """Tell whether `admit` lets every message of every sender pass without asking anybody."""
    return (
        recipient.contact_policy is ContactPolicy.OPEN
        and recipient.status is not AgentStatus.DISABLED
        and services.contacts.takes_all(recipient.id)
    )


async def admit(
    services: Services,
    sender_id: str | None,
    recipient: Agent,
    *,
    message_type: str,
    reply_to_row: MessageView | None = None,
    reply_to: str | None = None,
) -> None:
    """Let a message pass, or say why not.

    `reply_to_row`: the message it answers; `reply_to`: its id where the row was not found (yet): it is waited
    for before the sender is turned away. Costs no query for a recipient that is open and has set no rates.

    Raises: RecipientDisabled, NotAContact, RateLimited, StoreUnavailable, StreamsUnavailable.
    """
    _refuse_disabled(recipient)
    book, policy = services.contacts, recipient.contact_policy
    is_open = policy is ContactPolicy.OPEN
    book.note_policy(recipient.id, is_open=is_open)
    if sender_id is None or sender_id == recipient.id:
        return
    if is_open:
        standing = await _standing_with_open(services, recipient.id, sender_id)
    else:
        standing = await _standing_with_guarded(services, recipient.id, sender_id)
        allowed = may_write(policy, standing, services.now_ms(), is_reply=False)
        if not allowed and not await _is_reply(services, sender_id, recipient.id, reply_to_row, reply_to):
            raise _refusal(recipient, message_type)
    await _spend(services, recipient, sender_id, standing)


async def admit_request(services: Services, sender_id: str, recipient: Agent) -> Standing:
    """Let a contact request pass, or say why not; return how the two stand.

    Raises: RecipientDisabled, NotAContact, RateLimited, StoreUnavailable, StreamsUnavailable.
    """
    _refuse_disabled(recipient)
    policy, now_ms = recipient.contact_policy, services.now_ms()
    services.contacts.note_policy(recipient.id, is_open=policy is ContactPolicy.OPEN)
    standing = await services.contacts.looked_up(recipient.id, sender_id)
    if not may_ask(policy, standing, now_ms):
        raise _refusal(recipient, REQUEST_TYPE)
    await _spend(services, recipient, sender_id, standing)
    if policy is not ContactPolicy.OPEN and not standing.is_contact(now_ms):
        await _take(
            services, "ask", recipient, sender_id, count=CONTACT_REQUESTS_PER_HOUR_MAX, per_ms=HOUR_MS
        )
    return standing


def _refuse_disabled(recipient: Agent) -> None:
    """The router would fail the message; its sender hears it now. Raises: RecipientDisabled."""
    if recipient.status is AgentStatus.DISABLED:
        raise RecipientDisabled(f"{recipient.name!r} is disabled and takes no messages", field="to_agent_id")


async def _standing_with_open(services: Services, recipient_id: str, sender_id: str) -> Standing:
    if not services.contacts.may_have_rate(recipient_id):
        return STRANGERS
    try:
        return await services.contacts.believed(recipient_id, sender_id)
    except StoreUnavailable:
        return STRANGERS


async def _standing_with_guarded(services: Services, recipient_id: str, sender_id: str) -> Standing:
    try:
        standing = await services.contacts.believed(recipient_id, sender_id)
        if standing.is_contact(services.now_ms()):
            return standing
        return await services.contacts.looked_up(recipient_id, sender_id)
    except StoreUnavailable:
        _STORE_AWAY.inc()
        raise


async def _is_reply(
    services: Services, sender_id: str, recipient_id: str, row: MessageView | None, reply_to: str | None
) -> bool:
    """Tell whether the message answers one that the recipient sent to this sender."""
    waited_ms, pause_ms = 0, ROW_LOOK_MS
    while row is None and reply_to is not None and waited_ms < ROW_WAIT_MS and not services.draining:
        await asyncio.sleep(pause_ms / 1000)
        waited_ms, pause_ms = waited_ms + pause_ms, pause_ms * 2
        row = await stored_messages.get(services.pool, reply_to)
    return row is not None and (row.from_agent_id, row.to_agent_id) == (recipient_id, sender_id)


def _refusal(recipient: Agent, message_type: str) -> NotAContact:
    if recipient.contact_policy is ContactPolicy.CLOSED:
        _CLOSED.inc()
        return NotAContact(f"{recipient.name!r} takes messages of its contacts only, and no requests")
    _NOT_A_CONTACT.inc()
    if message_type == REQUEST_TYPE:
        return NotAContact(
            f"{recipient.name!r} takes requests by POST /api/v1/messaging/send, once declined none"
        )
    return NotAContact(
        f"{recipient.name!r} takes messages of its contacts only; POST /api/v1/messaging/send asks"
    )


async def _spend(services: Services, recipient: Agent, sender_id: str, standing: Standing) -> None:
    rate = standing.rate_per_minute(services.now_ms())
    if rate is not None:
        await _take(services, "contact", recipient, sender_id, count=rate, per_ms=MINUTE_MS)


async def _take(
    services: Services, purpose: str, recipient: Agent, sender_id: str, *, count: int, per_ms: int
) -> None:
    wait_ms = await services.allowances.take(purpose, recipient.id, sender_id, count=count, per_ms=per_ms)
    if wait_ms > 0:
        _RATE.inc()
        unit = "minute" if per_ms == MINUTE_MS else "hour"
        message = f"{recipient.name!r} takes {count} of these a {unit} from this sender"
        raise RateLimited(message, retry_after_s=math.ceil(wait_ms / 1000))
