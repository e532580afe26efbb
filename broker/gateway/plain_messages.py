"""Plain messages: to a named agent, with a type, a priority, a conversation and an object, and nothing else.

Nearly all are. One is taken here by the rules of `sending` and `accepting`, asked of memory, and what travels
of it and what its publisher is shown are written as text: making an envelope and a view of it and encoding
both costs several times as much. Properties hold that text to what the encoder writes of those.

Where nothing is returned, nothing is said: the general way finds out what is unusual about the message, or
wrong with it.
"""

from functools import lru_cache
from typing import Final

from broker.gateway.coordination import admission
from broker.gateway.reading import Faults
from broker.gateway.registration import check_label
from broker.gateway.services import Services
from schema import limits
from schema.codec import encode
from schema.ids import new_id
from schema.limits import MESSAGE_TYPE_CHARS_MAX, PRIORITY_MAX, PRIORITY_MIN
from schema.message import EMPTY_OBJECT, SendRequest

TYPES_REMEMBERED: Final = 1_024
"""Message types whose text is kept as it is written; each has 100 characters at most."""

Plain = tuple[str, str, str]
"""An accepted message: its id, its recipient's id, and its JSON up to what the broker says about it."""
Recipients = dict[str, str]
"""Ids of recipients by what they are called, found to take messages of everybody. It must not outlive a turn
of the loop, after which they may not."""


def take(
    services: Services, request: SendRequest, content: str, sender: str | None, recipients: Recipients
) -> Plain | None:
    """Return a plain message that is accepted. `request`: its rules are not checked yet; `content`: of it, as
    text. Rates are not asked: nobody may take a message so who has to count it."""
    to, kind, priority = request.to_agent_id, request.message_type, request.priority
    if (
        to is None
        or services.gatekeeper.barriers.is_any
        or content[0] != "{"
        or request.metadata is not EMPTY_OBJECT
        or priority < PRIORITY_MIN
        or priority > PRIORITY_MAX
        or len(kind) > MESSAGE_TYPE_CHARS_MAX
        or request.id is not None
        or request.reply_to is not None
        or request.caused_by is not None
        or request.requirements is not None
        or request.expires_at is not None
        or request.deliver_at is not None
    ):
        return None
    if to not in recipients and not _is_found(services, to, recipients):
        return None
    written_kind, conversation = _written_type(kind), _written_conversation(request.conversation_id)
    if written_kind is None or conversation is None:
        return None
    message_id, recipient = new_id(), recipients[to]
    author = "null" if sender is None else f'"{sender}"'
    return (
        message_id,
        recipient,
        f'{{"id":"{message_id}","from_agent_id":{author},"to_agent_id":"{recipient}",'
        f'"conversation_id":{conversation},"message_type":{written_kind},"priority":{priority},'
        f'"content":{content},"metadata":{{}},"status":"pending"',
    )


def travelling(plain: Plain, moment: str) -> bytes:
    """Return a message as it travels. `moment`: of its making, as JSON."""
    return (
        f'{plain[2]},"expires_at":null,"created_at":{moment},"reply_to":null,"root_id":"{plain[0]}","hop":0}}'
    ).encode()


def shown(plain: Plain, moment: str, durability: str | None) -> bytes:
    """Return what the publisher of an accepted message is shown. `moment`, `durability`: as `travelling` and
    the reply have them."""
    more = "" if durability is None else f',"durability":"{durability}"'
    return (
        f'{plain[2]},"retry_count":0,"expires_at":null,"created_at":{moment},"delivered_at":null,'
        f'"processed_at":null,"result":null,"status_reason":null,"reply_to":null,"root_id":"{plain[0]}",'
        f'"hop":0,"deliver_at":null,"next_attempt_at":null{more}}}'
    ).encode()


@lru_cache(TYPES_REMEMBERED)
def _written_type(message_type: str) -> str | None:
    """Return a message type as JSON; None for one that may not be."""
    faults = Faults()
    check_label("message_type", message_type, MESSAGE_TYPE_CHARS_MAX, faults)
    return encode(message_type).decode() if faults.is_empty else None


def _written_conversation(conversation_id: str | None) -> str | None:
    """Return a conversation as JSON; None for one that may not be."""
    if conversation_id is None:
        return "null"
    if len(conversation_id) > limits.CONVERSATION_ID_CHARS_MAX or not conversation_id.isprintable():
        return None
    return encode(conversation_id).decode()


def _is_found(services: Services, reference: str, recipients: Recipients) -> bool:
    record = services.agents.remembered(reference)
    if record is None or not admission.takes_all(services, record):
        return False
    recipients[reference] = record.id
    return True
