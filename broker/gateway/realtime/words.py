"""What is said on a live session, in the form of its kind: events of SSE, JSON frames of a WebSocket."""

from typing import Final

from broker.gateway.channel import Kind
from schema.codec import encode

RETRY_MS: Final = 2_000
"""After which an EventSource that lost its stream comes back."""
PING: Final = b": ping\n\n"
_BREAKS: Final = bytes.maketrans(b"\r\n", b"  ")


def said(kind: Kind, name: str, **fields: object) -> bytes:
    """Return something the gateway says by itself: `hello`, `presence`, `taken_over`, `closing`."""
    if kind is Kind.SOCKET:
        return encode({"type": name, **fields})
    return b"event: %b\ndata: %b\n\n" % (name.encode(), encode(fields))


def opening(kind: Kind, *, agent_id: str, session_id: str, heartbeat_s: int) -> bytes:
    """Return what a session begins with."""
    hello = said(kind, "hello", agent_id=agent_id, session_id=session_id, heartbeat_s=heartbeat_s)
    return hello if kind is Kind.SOCKET else b"retry: %d\n%b" % (RETRY_MS, hello)


def delivery(kind: Kind, event_id: str, message: bytes) -> bytes:
    """Return a message. Its JSON is passed on as it was written, line breaks between its tokens apart: they
    would end the line of an event."""
    if kind is Kind.SOCKET:
        return b'{"type":"message","event_id":"%b","message":%b}' % (event_id.encode(), message)
    return b"id: %b\nevent: message\ndata: %b\n\n" % (event_id.encode(), message.translate(_BREAKS))
