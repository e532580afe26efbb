"""What a reply that streams is written to: a connection of whichever kind, with nothing of its framework."""

from enum import Enum
from typing import Protocol


class Kind(Enum):
    """EVENTS: Server-Sent Events, which only go out. SOCKET: a WebSocket."""

    EVENTS = "sse"
    SOCKET = "websocket"


class Gone(Exception):
    """The peer is not there any more: expected, and nobody's fault."""


class Channel(Protocol):
    """One connection that streams."""

    kind: Kind

    async def send(self, data: bytes) -> None:
        """Send one event or frame (UTF-8), waiting while the peer is slow. Raises: Gone."""

    async def receive(self) -> bytes | None:
        """Return the next frame; None once the peer has gone. Of events, nothing else ever comes."""

    async def close(self, code: int, reason: str) -> None:
        """End the stream; a socket says why."""

    def abort(self) -> None:
        """Drop the connection with whatever it has not taken yet."""
