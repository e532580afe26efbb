"""Many messages in one request: each accepted or refused on its own, all published together.

The body is an array, or NDJSON (one message a line). Results come in the order of the messages. Nothing waits
for more than `accepted`: whoever sends hundreds at once reads back later.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from functools import partial
from itertools import islice
from typing import Final

import msgspec

from broker.gateway import plain_messages
from broker.gateway.accepting import accept, accept_at_once
from broker.gateway.access import acting_agent
from broker.gateway.call import Call, Reply
from broker.gateway.errors import error_body
from broker.gateway.json_bounds import is_plain
from broker.gateway.reading import BodyReader
from broker.gateway.sending import check_message
from broker.streams.ingress import Written, written
from broker.telemetry import metrics
from schema import limits
from schema.codec import encode
from schema.errors import BrokerError, Malformed, Rejected, TooLarge
from schema.http import BatchResult
from schema.message import EMPTY_OBJECT, SendRequest
from schema.times import from_ms

PUBLISHED: Final = metrics.PUBLISHED.child(door="batch")
MESSAGES_PER_TURN: Final = 100
"""After this many the loop turns once: a batch must not hold up the other requests (a message: ~10 us)."""


class SendBatchQuery(msgspec.Struct):
    """Query of `POST /api/messages/batch`."""

    from_agent_id: str | None = None


TOGETHER_BYTES_MAX: Final = limits.MESSAGE_BYTES_MAX
"""An array up to this may be read by one decode: it takes about 2 ms, and the other requests wait. No message
in it is too large."""
TOGETHER_OBJECTS_MAX: Final = 16 * limits.BATCH_MESSAGES_MAX
"""Objects in it, at every depth; with more it may have as many elements, which would be made before they are
counted."""
SMALL_KEYS: Final = limits.JSON_KEYS_MAX // 2 - 50
"""Keys of `content` or `metadata`, where those of both and the message's own are not counted together."""
COMMAS_TRUSTED_MAX: Final = 200_000
"""An array with more is counted token by token first (0.1 s a megabyte): it may have as many elements."""
_TOKEN: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[\]{},]', re.DOTALL)
_LINE: Final = re.compile(rb"[^\r\n]+")


class _Bounded(SendRequest, forbid_unknown_fields=True):
    """A message with nothing in it beside the fields that are looked at."""


_reader: Final = BodyReader(SendRequest, check_message)
_together: Final = msgspec.json.Decoder(list[_Bounded])
_array: Final = msgspec.json.Decoder(list[msgspec.Raw])


async def send_batch(call: Call[bytes, SendBatchQuery]) -> Reply:
    """Send up to 1,000 messages, as an array or as NDJSON. Each is accepted or refused on its own: `results`
    holds, in the same order, the id or the error of each. The reply comes once those accepted are on disk."""
    batch = _Batch(call)
    together = _read_together(call.body)
    if together is not None:
        await batch.take_together(*together)
    else:
        for number, part in enumerate(_split(call.body)):
            if number and number % MESSAGES_PER_TURN == 0:
                await asyncio.sleep(0)
            await batch.take(partial(_read, part))
    if batch.runs:
        await call.services.publish_runs(batch.runs)
        PUBLISHED.inc(sum(len(messages) for _, messages in batch.runs))
    return Reply(body=batch.reply())


class _Batch:
    """What has become of the messages so far."""

    def __init__(self, call: Call[bytes, SendBatchQuery]) -> None:
        self._call = call
        self._services = call.services
        self._is_counted = call.services.gatekeeper.counts(call.principal.metered)
        self._results: list[str] = []
        """As JSON."""
        self._senders: dict[str | None, str | None] = {}
        self._now = from_ms(call.services.now_ms())
        self.runs: list[tuple[str | None, list[Written]]] = []

    async def take_together(self, requests: Sequence[SendRequest], contents: Sequence[str]) -> None:
        """Take what was read by one decode, its rules not checked yet."""
        services, senders, moment = self._services, self._senders, encode(self._now).decode()
        recipients: plain_messages.Recipients = {}
        for number, (request, content) in enumerate(zip(requests, contents, strict=True)):
            if number and number % MESSAGES_PER_TURN == 0:
                await asyncio.sleep(0)
                recipients.clear()
            if request.from_agent_id in senders and not self._is_counted:
                sender = senders[request.from_agent_id]
                plain = plain_messages.take(services, request, content, sender, recipients)
                if plain is not None:
                    message = plain_messages.travelling(plain, moment)
                    self.note(sender, plain[0], (plain[1], request.priority, message))
                    continue
            await self.take(partial(_reader.checked, request))
            recipients.clear()

    async def take(self, read: Callable[[], SendRequest]) -> None:
        """Take one message, whatever it is."""
        call, services, senders = self._call, self._services, self._senders
        try:
            request = read()
            if request.from_agent_id not in senders:
                senders[request.from_agent_id] = await _sender(call, request.from_agent_id)
            sender = senders[request.from_agent_id]
            envelope = accept_at_once(services, request, sender, self._now)
            if envelope is None:
                envelope = await accept(services, request, sender)
            if self._is_counted:
                services.gatekeeper.spend(call.principal.metered, envelope)
        except BrokerError as error:
            self.refuse(error)
        else:
            self.note(sender, envelope.id, written(envelope))

    def reply(self) -> bytes:
        """Return what becomes of them all, as JSON of a `BatchReply`."""
        durability = self._services.durability
        more = "" if durability is None else f',"durability":"{durability}"'
        return f'{{"results":[{",".join(self._results)}]{more}}}'.encode()

    def refuse(self, error: BrokerError) -> None:
        """Note a message that is not published."""
        self._results.append(encode(BatchResult(error=error_body(error))).decode())

    def note(self, sender: str | None, message_id: str, message: Written) -> None:
        """Note a message that is to be published."""
        runs = self.runs
        if not runs or runs[-1][0] != sender:
            runs.append((sender, []))
        runs[-1][1].append(message)
        self._results.append(f'{{"id":"{message_id}"}}')


def _read_together(body: bytes) -> tuple[Sequence[SendRequest], Sequence[str]] | None:
    """Return the messages of an array by one decode, and the content of each, where nothing about its JSON
    needs a closer look; their rules are not checked yet. None says nothing: then each is read by itself,
    which finds what is wrong."""
    if len(body) > TOGETHER_BYTES_MAX or not is_plain(body):
        return None
    if len(body) > 2 * TOGETHER_OBJECTS_MAX and body.count(b"{") > TOGETHER_OBJECTS_MAX:
        return None
    try:
        requests = _together.decode(body)
    except (msgspec.MsgspecError, RecursionError):
        return None
    if not 0 < len(requests) <= limits.BATCH_MESSAGES_MAX:
        return None
    contents = [str(request.content, "utf-8") for request in requests]
    others = [str(request.metadata, "utf-8") for request in requests if request.metadata is not EMPTY_OBJECT]
    # What is flat and short is small; counting costs several times as much as finding that out.
    nested = [part for part in contents if len(part) >= SMALL_KEYS or "[" in part or part.rfind("{") > 0]
    return (requests, contents) if all(map(_is_small, nested + others)) else None


def _is_small(part: str) -> bool:
    """Tell whether two of these, with a message around them, are within the bounds of depth and keys."""
    return part.count("{") + part.count("[") < limits.JSON_DEPTH_MAX and (
        len(part) < SMALL_KEYS or part.count(":") < SMALL_KEYS
    )


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
