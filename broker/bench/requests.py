"""Cuts HTTP/1.1 POST requests out of a byte stream; nothing more of HTTP than a push needs.

Pure: no sockets, no state. `Content-Length` framing only, because that is what pushes use; a request
without one has no body. Header names are compared in lower case, values keep their case.
"""

import hmac
import re
from base64 import b64decode, b64encode
from functools import lru_cache
from typing import Final, NamedTuple

HEAD_END: Final = b"\r\n\r\n"
_SENT: Final = re.compile(rb'"sent_ns": ?(\d+)').search


SIGNATURE_AGE_S_MAX: Final = 300
"""Standard Webhooks 1.0: the tolerance its libraries use."""


class Request(NamedTuple):
    """One request: its head without the blank line, its body, and where in the data the next one begins."""

    head: bytes
    body: bytes
    stop: int


def cut(data: bytes, start: int) -> Request | None:
    """Return the request that begins at `start`, or None while bytes of it are missing."""
    head_stop = data.find(HEAD_END, start)
    if head_stop < 0:
        return None
    head = data[start:head_stop]
    body_start = head_stop + 4
    stop = body_start + _body_bytes(head)
    if stop > len(data):
        return None
    return Request(head, data[body_start:stop], stop)


def header(head: bytes, name: bytes) -> bytes | None:
    """Return the value of a header, whatever the case of its name.

    Quickest when `name` is spelled as senders spell it: other spellings cost a copy of the head.
    """
    label = _label(name)
    at = head.find(label)
    if at < 0:
        at = head.lower().find(label.lower())
        if at < 0:
            return None
    begin = at + len(label)
    end = head.find(b"\r\n", begin)
    return (head[begin:] if end < 0 else head[begin:end]).strip()


def sent_ns_of(body: bytes) -> int | None:
    """Return the number behind `"sent_ns":` in a JSON text, or None where there is none.

    Reading one number this way costs a tenth of decoding the body, and the receiver must stay cheap.
    """
    found = _SENT(body)
    return int(found[1]) if found else None


def path_of(head: bytes) -> bytes:
    """Return the path of the request line."""
    return head.split(b" ", 2)[1]


@lru_cache(maxsize=16)
def _label(name: bytes) -> bytes:
    return b"\r\n%b:" % name


def _body_bytes(head: bytes) -> int:
    length = header(head, b"Content-Length")
    return int(length) if length else 0


def is_signed(secret: str, head: bytes, body: bytes, *, now_s: int) -> bool:
    """Tell whether a push is signed as Standard Webhooks 1.0 says, with this `whsec_` secret, just now.

    Written here once more on purpose: a check by the code that signed would prove nothing.
    """
    webhook_id, stamp = header(head, b"webhook-id"), header(head, b"webhook-timestamp")
    signatures = header(head, b"webhook-signature")
    if webhook_id is None or stamp is None or signatures is None or not stamp.isdigit():
        return False
    key = b64decode(secret.removeprefix("whsec_"))
    digest = hmac.digest(key, b"%b.%b.%b" % (webhook_id, stamp, body), "sha256")
    wanted = b"v1," + b64encode(digest)
    known = any(hmac.compare_digest(wanted, one) for one in signatures.split(b" "))
    return known and abs(now_s - int(stamp)) <= SIGNATURE_AGE_S_MAX
