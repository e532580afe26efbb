"""Encoders and decoders, made once. JSON by msgspec; `content` and `metadata` stay raw.

`decode_envelope` is the only door for what publishers wrote: whatever it returns is within the bounds of
`schema.limits` and safe for keys, JSONB and routing.
"""

import msgspec

from schema import limits
from schema.errors import Rejected
from schema.ids import parse_id
from schema.ledger import Event, Receipt, WholeEvent
from schema.message import EMPTY_OBJECT, ContentRequirements, DeliveryOptions, Envelope

encoder = msgspec.json.Encoder(decimal_format="number")
encode = encoder.encode

_envelope = msgspec.json.Decoder(Envelope)
_requirements = msgspec.json.Decoder(ContentRequirements)
_options = msgspec.json.Decoder(DeliveryOptions)
_events = msgspec.json.Decoder(list[Event])
_whole_events = msgspec.json.Decoder(list[WholeEvent])
_receipts = msgspec.json.Decoder(list[Receipt])

_OBJECT = ord("{")
_BACKSLASH = ord("\\")

decode_stored_envelope = _envelope.decode
"""Decode an envelope the broker itself wrote; no checks."""
decode_events = _events.decode
decode_whole_events = _whole_events.decode
decode_receipts = _receipts.decode


def decode_envelope(raw: bytes) -> Envelope:
    """Decode and check what a publisher wrote.

    Raises: Rejected, its message saying what is wrong: not JSON, a field missing or of the wrong type, a
    value out of bounds, text Postgres cannot store.
    """
    if len(raw) > limits.ENVELOPE_BYTES_MAX:
        raise Rejected(f"message of {len(raw)} bytes; at most {limits.ENVELOPE_BYTES_MAX}")
    try:
        envelope = _envelope.decode(raw)
        if not raw.isascii():
            _check_utf8(raw)
        # An unpaired surrogate or NUL can only come from an escape, so most messages skip the costly check.
        # By number: to look for a byte costs a third of looking for bytes of length 1.
        if _BACKSLASH in raw and b"\\u" in raw:
            _check_text(raw)
    except msgspec.MsgspecError as error:
        raise Rejected(f"not a message: {error}") from None
    except RecursionError:
        raise Rejected("not a message: nested too deeply") from None
    _check_rest(envelope)
    return envelope


def requirements_of(envelope: Envelope) -> list[str]:
    """Return the capabilities a message requires: its own list, else `content.requirements`, else none."""
    own = envelope.requirements
    if isinstance(own, list):
        return own
    try:
        return _requirements.decode(envelope.content).requirements or []
    except msgspec.MsgspecError:
        return []


NO_OPTIONS = DeliveryOptions()


def options_of(envelope: Envelope) -> DeliveryOptions:
    """Return the delivery options in `metadata`; fields that make no sense there govern nothing."""
    raw = bytes(envelope.metadata)
    if len(raw) <= 2 or (
        b'"retry_policy"' not in raw and b'"max_retries"' not in raw and b'"timeout"' not in raw
    ):
        return NO_OPTIONS
    try:
        return _options.decode(raw)
    except msgspec.MsgspecError:
        return NO_OPTIONS


def _check_rest(envelope: Envelope) -> None:
    """Check what the decoder does not: ids, and that the raw parts are objects."""
    envelope.id = message_id = parse_id(envelope.id)
    if envelope.reply_to is not None:
        envelope.reply_to = parse_id(envelope.reply_to)
    root_id = envelope.root_id
    envelope.root_id = message_id if root_id is None or root_id == message_id else parse_id(root_id)
    if memoryview(envelope.content)[0] != _OBJECT:
        raise Rejected("content must be an object", field="content")
    metadata = envelope.metadata
    if metadata != EMPTY_OBJECT and memoryview(metadata)[0] != _OBJECT:
        raise Rejected("metadata must be an object", field="metadata")


def _check_utf8(raw: bytes) -> None:
    """Refuse bytes that are not UTF-8: the decoder skips over raw parts without looking."""
    try:
        raw.decode()
    except UnicodeDecodeError:
        raise Rejected("not a message: not UTF-8") from None


def _check_text(raw: bytes) -> None:
    """Refuse NUL and unpaired surrogates, wherever they are: `jsonb` takes neither."""
    try:
        value = msgspec.json.decode(raw)
    except (msgspec.MsgspecError, UnicodeError):
        raise Rejected("text holds an unpaired surrogate") from None
    if _holds_nul(value):
        raise Rejected("text holds a NUL character")


def _holds_nul(value: object) -> bool:
    if isinstance(value, str):
        return "\x00" in value
    if isinstance(value, dict):
        return any(_holds_nul(key) or _holds_nul(item) for key, item in value.items())
    if isinstance(value, list):
        return any(_holds_nul(item) for item in value)
    return False
