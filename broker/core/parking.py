"""What parked messages have in common: those that need the same lie together, by signature."""

from hashlib import blake2b

from msgspec import Struct

from schema.codec import encode
from schema.message import Lane


class Signature(Struct):
    """What parked messages with the same needs share: the key of their stream, and who could take them."""

    requirements: tuple[str, ...]
    message_type: str
    lane: Lane

    @property
    def key(self) -> str:
        """Return a short name that is safe in a Redis key."""
        text = encode([self.requirements, self.message_type])
        return f"{blake2b(text, digest_size=10).hexdigest()}:{self.lane.value}"
