"""Whether a message is taken, and as what envelope: who gets it, what it goes back to, what is against it."""

from datetime import datetime

from broker.gateway.coordination import admission
from broker.gateway.reading import Faults
from broker.gateway.sending import Origin, check_not_too_far, envelope_of
from broker.gateway.services import Services
from broker.gateway.status import row_within
from schema.errors import StoreUnavailable
from schema.ids import new_id
from schema.message import Envelope, MessageView, SendRequest
from schema.times import from_ms


async def accept(
    services: Services, request: SendRequest, sender: str | None, *, answered_within_ms: int = 0
) -> Envelope:
    """Return the message as it will be published, if its recipient takes it from this sender.

    `answered_within_ms`: how long to wait for the record of the message it answers.
    Raises: UnknownRecipient; Rejected; NotAContact; RateLimited; InboxFull; LoopDetected; Killed;
    StoreUnavailable when the recipient cannot be looked up.
    """
    now = from_ms(services.now_ms())
    faults = Faults()
    check_not_too_far(request, now, faults)
    faults.raise_if_any()
    recipient, record = None, None
    if request.to_agent_id is not None:
        recipient, record = await admission.addressed(services, request.to_agent_id)
    message_id = request.id.lower() if request.id is not None else new_id()
    origin = Origin(id=message_id, from_agent_id=sender, to_agent_id=recipient, now=now)
    reply_to = None if request.reply_to is None else request.reply_to.lower()
    answered = None
    if reply_to is not None:
        answered = await _inherit(services, origin, reply_to, within_ms=answered_within_ms)
    elif request.caused_by is not None:
        await _inherit(services, origin, request.caused_by.lower(), within_ms=answered_within_ms)
        origin.conversation_id = None  # it begins one of its own, unless it says otherwise
    services.gatekeeper.check(sender, recipient, origin.root_id or message_id)
    if record is not None:
        await admission.admit(
            services,
            sender,
            record,
            message_type=request.message_type,
            reply_to_row=answered,
            reply_to=reply_to,
        )
    envelope = envelope_of(request, origin)
    if envelope.hop:
        services.lineage.note(envelope)
    return envelope


def accept_at_once(
    services: Services, request: SendRequest, sender: str | None, now: datetime
) -> Envelope | None:
    """Return what `accept` would, where nobody has to be asked about the message; None says nothing."""
    if request.reply_to is not None or request.deliver_at is not None or request.caused_by is not None:
        return None
    recipient = None
    if request.to_agent_id is not None:
        record = services.agents.remembered(request.to_agent_id)
        if record is None or not admission.passes(services, sender, record):
            return None
        recipient = record.id
    if services.gatekeeper.barriers.is_any and not services.gatekeeper.passes(sender, recipient):
        return None
    message_id = new_id() if request.id is None else request.id.lower()
    origin = Origin(id=message_id, from_agent_id=sender, to_agent_id=recipient, now=now)
    return envelope_of(request, origin)


async def _inherit(
    services: Services, origin: Origin, reply_to: str, *, within_ms: int
) -> MessageView | None:
    """Take root, hop and conversation from the message answered, and return it; one that is not recorded by
    then counts as a root itself."""
    origin.root_id, origin.hop = services.lineage.find(reply_to) or (reply_to, 0)
    origin.hop += 1
    try:
        # An agent may answer a push before the message is recorded.
        answered = await row_within(services, reply_to, within_ms=within_ms)
    except StoreUnavailable:
        return None
    if answered is not None:
        origin.root_id, origin.hop = answered.root_id or answered.id, answered.hop + 1
        if origin.from_agent_id in (None, answered.from_agent_id, answered.to_agent_id):
            origin.conversation_id = answered.conversation_id
        else:
            # A stranger who has an id is told no more by it, and uses up nothing of what that root may have.
            origin.root_id = None
    return answered
