"""Many messages in one request: each accepted or refused on its own, all published together.

The body is an array, or NDJSON (one message a line). Results come in the order of the messages. Nothing waits
for more than `accepted`: whoever sends hundreds at once reads back later.
"""

import asyncio
import re
from itertools import islice
from typing import Final

import msgspec

from broker.gateway.accepting import accept, accept_at_once
from broker.gateway.access import acting_agent
from broker.gateway.call import Call, Reply
from broker.gateway.errors import error_body
from broker.gateway.reading import BodyReader
from broker.gateway.sending import check_message
from broker.telemetry import metrics
from schema import limits
from schema.errors import BrokerError, Malformed, Rejected, TooLarge
from schema.http import BatchReply, BatchResult
from schema.message import Envelope, SendRequest
from schema.times import from_ms

PUBLISHED: Final = metrics.PUBLISHED.child(door="batch")
MESSAGES_PER_TURN: Final = 50
"""After this many the loop turns once: a batch must not hold up the other requests (a message: ~20 us)."""


class SendBatchQuery(msgspec.Struct):
    """Query of `POST /api/messages/batch`."""

    from_agent_id: str | None = None


COMMAS_TRUSTED_MAX: Final = 200_000
"""An array with more is counted token by token first (0.1 s a megabyte): it may have as many elements."""
_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{},]', re.DOTALL)
_LINE: Final = re.compile(rb"[^\r\n]+")

_reader: Final = BodyReader(SendRequest, check_message)
_array: Final = msgspec.json.Decoder(list[msgspec.Raw])


async def send_batch(call: Call[bytes, SendBatchQuery]) -> Reply:
    """Send up to 1,000 messages, as an array or as NDJSON. Each is accepted or refused on its own: `results`
    holds, in the same order, the id or the error of each. The reply comes once those accepted are on disk."""
    parts = _split(call.body)
    results: list[BatchResult] = []
    envelopes: list[Envelope] = []
    senders: dict[str | None, str | None] = {}
    now = from_ms(call.services.now_ms())
    for number, part in enumerate(parts):
        if number % MESSAGES_PER_TURN == MESSAGES_PER_TURN - 1:
            await asyncio.sleep(0)
        try:
            request = _read(part)
            if request.from_agent_id not in senders:
                senders[request.from_agent_id] = await _sender(call, request.from_agent_id)
            sender = senders[request.from_agent_id]
            envelope = accept_at_once(call.services, request, sender, now)
            if envelope is None:
                envelope = await accept(call.services, request, sender)
            call.services.gatekeeper.spend(call.principal.metered, envelope)
        except BrokerError as error:
            results.append(BatchResult(error=error_body(error)))
        else:
            envelopes.append(envelope)
            results.append(BatchResult(id=envelope.id))
    if envelopes:
        await call.services.publish(envelopes)
        PUBLISHED.inc(len(envelopes))
    return Reply(body=BatchReply(results=results, durability=call.services.durability))


def _read(part: bytes) -> SendRequest:
    if len(part) > limits.MESSAGE_BYTES_MAX:
        raise TooLarge(f"a message of {len(part)} bytes; at most {limits.MESSAGE_BYTES_MAX}")
    return _reader.read(part)


async def _sender(call: Call[bytes, SendBatchQuery], named: str | None) -> str | None:
    return await acting_agent(call, named, call.query.from_agent_id)


def _split(body: bytes) -> list[bytes]:
    """Return the messages of a batch, each as its own JSON text. Raises: Malformed, Rejected."""
    if body.lstrip()[:1] == b"[":
        try:
            _check_count(body)
            parts = [bytes(part) for part in _array.decode(body)]
        except msgspec.DecodeError as error:
            raise Malformed(f"the body is not a JSON array: {error}") from None
        except RecursionError:
            raise Rejected(f"nested deeper than {limits.JSON_DEPTH_MAX}") from None
    else:
        lines = (line[0] for line in _LINE.finditer(body) if line[0].strip())
        parts = list(islice(lines, limits.BATCH_MESSAGES_MAX + 1))
    if not parts:
        raise Malformed("the batch is empty; it must be an array of messages, or one message a line")
    if len(parts) > limits.BATCH_MESSAGES_MAX:
        raise _too_many()
    return parts


def _check_count(body: bytes) -> None:
    """Refuse an array of too many elements before it is decoded: millions of zeros, each an object by itself,
    would cost half a gigabyte. Raises: Rejected."""
    if body.count(b",") <= COMMAS_TRUSTED_MAX:
        return
    depth, between = 0, 0
    for token in _TOKEN.finditer(body):
        match token[0]:
            case b"[" | b"{":
                depth += 1
            case b"]" | b"}":
                depth -= 1
            case b"," if depth == 1:
                between += 1
                if between >= limits.BATCH_MESSAGES_MAX:
                    raise _too_many()


def _too_many() -> Rejected:
    return Rejected(f"a batch of more than {limits.BATCH_MESSAGES_MAX} messages")
