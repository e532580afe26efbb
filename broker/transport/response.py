"""Reads HTTP/1.1 responses from bytes, one after another. Knows no socket, no clock and no request.

Theory of operation: `feed` takes what arrived; the parser's callbacks only take notes, and what they mean is
decided after the parser has returned. `complete` says that the final response is there (or as much of it as
we read); `reset` makes ready for the next one.

No header reaches Python on the usual path, which is most of its speed: the head is read a second time, by a
slower parser, only when a header matters (`_read_fields`). Framing follows RFC 9112 as llhttp implements it
in strict mode; the bounds are in `schema.limits`.

Endpoints say the same thing again and again, so heads are remembered by their bytes: `recognise` reads a 2xx
that came in one piece without the parser when its head has been understood before. How a body is framed
follows from the head alone (RFC 9112, section 6.3), so it says what the parser would say.
"""

from contextlib import suppress
from typing import Final

from httptools import HttpParserError, HttpParserUpgrade, HttpResponseParser
from msgspec import Struct

from broker.transport.outcome import FailureKind, Trouble
from schema.limits import (
    RESPONSE_HEAD_KNOWN_BYTES_MAX,
    RESPONSE_HEADER_BYTES_MAX,
    RESPONSE_HEADS_KNOWN_MAX,
    RESPONSE_INTERIM_MAX,
    RESPONSE_READ_BYTES_MAX,
    RESPONSE_WIRE_BYTES_MAX,
)

_INTERIM_STATUS_MIN: Final = 100
_FINAL_STATUS_MIN: Final = 200
_PLAIN_STATUS_MAX: Final = 299
"""Up to here nobody asks for Retry-After."""
_STATUS_MAX: Final = 599
_RETRY_AFTER_CHARS_MAX: Final = 64
_HEAD_END: Final = b"\r\n\r\n"

_MALFORMED: Final = Trouble(FailureKind.PROTOCOL, "the response is not valid HTTP/1.1")
_INTERIM_FLOOD: Final = Trouble(FailureKind.PROTOCOL, f"more than {RESPONSE_INTERIM_MAX} interim responses")
_HEAD_TOO_LARGE: Final = Trouble(
    FailureKind.TOO_LARGE, f"the response has more than {RESPONSE_HEADER_BYTES_MAX} bytes of headers"
)


class _Known(Struct, frozen=True, gc=False):
    """What a head has been found to announce: a response of this status, whole after so many bytes of body,
    on a connection that stays open."""

    status: int
    body_bytes: int


_known: Final[dict[bytes, _Known]] = {}
"""Heads of plain responses by their bytes, up to the blank line. At RESPONSE_HEADS_KNOWN_MAX it starts anew:
a `Date` makes a new head every second, and one that is not known only costs the parser's 3 us."""


def recognise(data: bytes) -> tuple[int, bytes] | None:
    """Return status and body when the data is exactly one response with a head that is known; else None.

    Only for the first bytes after a request. Such a response leaves the connection reusable.
    """
    head, end, body = data.partition(_HEAD_END)
    known = _known.get(head)
    if known is None or len(body) != known.body_bytes or not end:
        return None
    return known.status, body


class ResponseReader:
    """See the module's docstring. `status` is 0 until the final head has been read."""

    __slots__ = (
        "_begun",
        "_body",
        "_fields",
        "_interim",
        "_keep",
        "_parser",
        "_raw",
        "complete",
        "received_bytes",
        "status",
    )

    complete: bool
    received_bytes: int
    status: int
    _begun: int
    _body: bytes | bytearray
    _fields: "_Fields | None"
    _interim: int
    _keep: bool
    _raw: bytes

    def __init__(self) -> None:
        self._parser = HttpResponseParser(self)
        self.reset()

    def feed(self, data: bytes) -> Trouble | None:
        """Take bytes. Return why the response cannot be used, or None; then look at `complete`."""
        try:
            self._parser.feed_data(data)
        except (HttpParserError, HttpParserUpgrade):
            # Behind a complete response it is only garbage: the answer counts, the connection is done for.
            self._keep = False
            if not self.complete:
                return _INTERIM_FLOOD if self._interim > RESPONSE_INTERIM_MAX else _MALFORMED
        self.received_bytes += len(data)
        if (
            self.complete
            and self.status <= _PLAIN_STATUS_MAX
            and self.received_bytes <= RESPONSE_HEADER_BYTES_MAX
        ):
            if self.received_bytes == len(data):
                self._remember(data)
            return None
        return self._look_closer(data)

    def end(self) -> None:
        """Note that the peer closed in good order: the end of a body that has no other mark."""
        if self._fields is not None and not self._fields.framed:
            self.complete = True

    def reset(self) -> None:
        """Make ready for the next response on the same connection."""
        self.complete = False
        self.received_bytes = 0
        self.status = 0
        self._begun = 0
        self._body = b""
        self._fields = None
        self._interim = 0
        self._keep = False
        self._raw = b""

    def release(self) -> None:
        """Let go of the parser: its callbacks make a cycle that would wait for the garbage collector."""
        del self._parser

    @property
    def body(self) -> bytes:
        """The body as far as it is read."""
        body = self._body
        if type(body) is bytes and len(body) <= RESPONSE_READ_BYTES_MAX:
            return body
        return bytes(body[:RESPONSE_READ_BYTES_MAX])

    @property
    def retry_after(self) -> str | None:
        """Retry-After as it was sent, cut to a sane length; only of statuses from 300 on."""
        return None if self._fields is None else self._fields.retry_after

    @property
    def reusable(self) -> bool:
        """Whether the connection may carry another request: it ended as announced, and nothing came after.

        One message begun per response, interim ones included; one more is bytes nobody asked for.
        """
        return self._keep and self._begun == self._interim + 1

    # --- HttpResponseParser's callbacks: notes only --------------------------------------------------

    def on_message_begin(self) -> None:
        self._begun += 1

    def on_headers_complete(self) -> None:
        if self.complete:
            return
        status = self._parser.get_status_code()
        if status >= _FINAL_STATUS_MIN:
            self.status = status
            return
        self._interim += 1
        if self._interim > RESPONSE_INTERIM_MAX or status < _INTERIM_STATUS_MIN:
            raise ValueError(status)  # only to stop the parser; comes out of it as HttpParserError

    def on_body(self, piece: bytes) -> None:
        if self.complete:
            return
        if not self._body:
            self._body = piece
        elif isinstance(self._body, bytes):
            self._body = bytearray(self._body + piece)
        else:
            self._body += piece
        if len(self._body) > RESPONSE_READ_BYTES_MAX:
            self.complete = True

    def on_message_complete(self) -> None:
        # An interim response completes too, without a body; it leaves no status.
        if self.status and not self.complete:
            self.complete = True
            self._keep = self._parser.should_keep_alive()

    def _remember(self, data: bytes) -> None:
        """Remember the head of a plain response that came in one piece.

        Not if anything but its body as it was sent followed the head: interim responses, chunks, garbage.
        """
        head, end, body = data.partition(_HEAD_END)
        if (
            self.reusable
            and end
            and not self._interim
            and len(head) <= RESPONSE_HEAD_KNOWN_BYTES_MAX
            and body == self._body
        ):
            if len(_known) >= RESPONSE_HEADS_KNOWN_MAX:
                _known.clear()
            _known[head] = _Known(self.status, len(body))

    # --- what is unusual ----------------------------------------------------------------------------

    def _look_closer(self, data: bytes) -> Trouble | None:
        """Read the head again once it is whole, and hold what is unfinished or large to its bounds."""
        if self._fields is None:
            self._raw += data
            if self.status:
                self._fields = _read_fields(self._raw)
                self._raw = b""
        elif self.received_bytes > RESPONSE_WIRE_BYTES_MAX:
            # Chunk extensions or trailers without end: the status is known and counts.
            self.complete = True
        head_bytes = self.received_bytes if self._fields is None else self._fields.head_bytes
        if head_bytes > RESPONSE_HEADER_BYTES_MAX:
            return _HEAD_TOO_LARGE
        return _MALFORMED if self.status > _STATUS_MAX else None


class _Fields(Struct, frozen=True):
    """What is read from a head; `framed`: the body's end is marked other than by closing."""

    retry_after: str | None
    framed: bool
    head_bytes: int


class _FieldReader:
    """Collects the header fields of the final response; interim ones and what follows do not count."""

    __slots__ = ("final", "found", "parser", "size_bytes")

    def __init__(self) -> None:
        self.parser = HttpResponseParser(self)
        self.found: dict[bytes, bytes] = {}
        self.final: dict[bytes, bytes] | None = None
        self.size_bytes = 0

    def on_message_begin(self) -> None:
        self.found = {}

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.final is None:
            self.size_bytes += len(name) + len(value) + len(b": \r\n")
            self.found.setdefault(name.lower(), value)

    def on_headers_complete(self) -> None:
        if self.final is None and self.parser.get_status_code() >= _FINAL_STATUS_MIN:
            self.final = self.found


def _read_fields(raw: bytes) -> _Fields:
    """Read the fields that matter from bytes that begin with the whole head of a final response."""
    reader = _FieldReader()
    # What follows the head may be garbage; the head itself has been understood before.
    with suppress(HttpParserError, HttpParserUpgrade):
        reader.parser.feed_data(raw)
    found = reader.final or {}
    wait = found.get(b"retry-after")
    return _Fields(
        retry_after=None if wait is None else wait.decode("latin-1")[:_RETRY_AFTER_CHARS_MAX],
        framed=b"content-length" in found or b"chunked" in found.get(b"transfer-encoding", b"").lower(),
        head_bytes=reader.size_bytes,
    )
