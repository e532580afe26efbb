"""The rules for sending a message, beyond types, and how a request becomes an envelope. Pure.

What these rules let through, `schema.codec.decode_envelope` lets through too: the router must never find a
message malformed that the gateway accepted.
"""

from datetime import datetime, timedelta
from typing import Final

import msgspec

from broker.gateway.reading import Faults
from broker.gateway.registration import check_label, check_required
from schema import limits
from schema.ids import is_id
from schema.message import EMPTY_OBJECT, ContentRequirements, DeliveryOptions, Envelope, SendRequest
from schema.times import as_utc

_requirements = msgspec.json.Decoder(ContentRequirements)
_options = msgspec.json.Decoder(DeliveryOptions)
_AHEAD: Final = timedelta(milliseconds=limits.SCHEDULE_AHEAD_MS_MAX)
_OBJECT: Final = ord("{")
_NULL: Final = msgspec.Raw(b"null")
_GOVERNING: Final = (b'"retry_policy"', b'"max_retries"', b'"timeout"')


class Origin(msgspec.Struct, kw_only=True, gc=False):
    """What the broker, not the caller, says about a message."""

    id: str
    from_agent_id: str | None
    to_agent_id: str | None
    now: datetime
    root_id: str | None = None
    hop: int = 0
    conversation_id: str | None = None
    """Of the message this one answers; what the request says counts more."""


def check_message(request: SendRequest, faults: Faults) -> None:
    """Note everything wrong with a message."""
    if not (request.id is request.reply_to is request.caused_by is None):
        _check_ids(request, faults)
    if not limits.PRIORITY_MIN <= request.priority <= limits.PRIORITY_MAX:
        faults.add("priority", "must be 1 (highest) to 10")
    check_label("message_type", request.message_type, limits.MESSAGE_TYPE_CHARS_MAX, faults)
    conversation = request.conversation_id
    if conversation is not None and len(conversation) > limits.CONVERSATION_ID_CHARS_MAX:
        faults.add("conversation_id", f"must have at most {limits.CONVERSATION_ID_CHARS_MAX} characters")
    elif conversation is not None and not conversation.isprintable():
        # Some control characters are what the recorder's columns are separated by.
        faults.add("conversation_id", "must be printable text")
    if memoryview(request.content)[0] != _OBJECT:
        faults.add("content", "must be a JSON object")
    has_metadata = request.metadata != EMPTY_OBJECT
    if has_metadata and request.metadata == _NULL:
        request.metadata, has_metadata = EMPTY_OBJECT, False
    if has_metadata and memoryview(request.metadata)[0] != _OBJECT:
        faults.add("metadata", "must be a JSON object")
    if request.to_agent_id is None or request.requirements is not None:
        _check_destination(request, faults)
    if has_metadata:
        _check_options(bytes(request.metadata), faults)
    if request.expires_at is not None:
        _check_time("expires_at", request.expires_at, faults)
    if request.deliver_at is not None:
        _check_time("deliver_at", request.deliver_at, faults)


def needed(request: SendRequest) -> list[str] | None:
    """Return the capabilities a message needs: its own list, else the one in its content, else None."""
    if request.requirements is not None:
        return request.requirements
    if request.to_agent_id is not None or b'"requirements"' not in bytes(request.content):
        return None  # with a recipient, `content.requirements` is the agents' own affair
    try:
        return _requirements.decode(request.content).requirements
    except msgspec.MsgspecError:
        return None


def envelope_of(request: SendRequest, origin: Origin) -> Envelope:
    """Return a checked message as it will travel.

    Its requirements are lifted out of the content here, so that no router has to decode that.
    """
    envelope = Envelope(
        id=origin.id,
        from_agent_id=origin.from_agent_id,
        to_agent_id=origin.to_agent_id,
        conversation_id=origin.conversation_id
        if request.conversation_id is None
        else request.conversation_id,
        message_type=request.message_type,
        priority=request.priority,
        content=request.content,
        metadata=request.metadata,
        expires_at=request.expires_at and as_utc(request.expires_at),
        created_at=origin.now,
        reply_to=request.reply_to and request.reply_to.lower(),
        root_id=origin.root_id or origin.id,
        hop=origin.hop,
    )
    # With a recipient, `content.requirements` is the agents' own affair.
    requirements = None
    if request.requirements is not None or request.to_agent_id is None:
        requirements = needed(request)
    if requirements is not None:
        envelope.requirements = list(dict.fromkeys(requirements))
    if request.deliver_at is not None:
        envelope.deliver_at = as_utc(request.deliver_at)
    return envelope


def check_not_too_far(request: SendRequest, now: datetime, faults: Faults) -> None:
    """Note a delivery scheduled beyond what the deployment keeps."""
    if request.deliver_at is not None and as_utc(request.deliver_at) - now > _AHEAD:
        faults.add("deliver_at", f"at most {_AHEAD.days} days ahead")


def _check_ids(request: SendRequest, faults: Faults) -> None:
    for field, value in (
        ("id", request.id),
        ("reply_to", request.reply_to),
        ("caused_by", request.caused_by),
    ):
        if value is not None and not is_id(value.lower()):
            faults.add(field, "must be a UUID")


def _check_destination(request: SendRequest, faults: Faults) -> None:
    requirements = needed(request)
    if request.to_agent_id is None and not requirements:
        faults.add("to_agent_id", "name a recipient, or say in requirements what it must be capable of")
    if requirements is not None:
        check_required("requirements", requirements, faults)


def _check_options(metadata: bytes, faults: Faults) -> None:
    """The part of the metadata that governs delivery must make sense; the rest is the agents' own."""
    if len(metadata) <= 2 or not any(name in metadata for name in _GOVERNING):
        return
    try:
        options = _options.decode(metadata)
    except msgspec.ValidationError as error:
        faults.add("metadata", str(error))
        return
    if options.max_retries is not None and options.max_retries < 0:
        faults.add("metadata.max_retries", "must not be negative")
    if options.timeout is not None and options.timeout <= 0:
        faults.add("metadata.timeout", "must be more than 0 seconds")


def _check_time(field: str, moment: datetime, faults: Faults) -> None:
    try:
        as_utc(moment)
    except OverflowError:
        faults.add(field, "is outside the years 1 to 9999 in UTC")
