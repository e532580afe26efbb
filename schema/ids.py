"""Ids: UUIDv7 as lower-case text, so that rows of one time lie together in an index (RFC 9562).

Invariant: a text that `parse_id` returned is safe inside a Redis key (no braces, `|`, `:` or control
characters) and equal for equal UUIDs however they were spelled.
"""

import re
from binascii import unhexlify
from zlib import crc32

from uuid_utils import uuid7

from schema.errors import Rejected

_is_uuid = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z").match


def new_id() -> str:
    """Return a fresh UUIDv7 as text."""
    return str(uuid7())


def is_id(text: str) -> bool:
    """Tell whether the text is a UUID in canonical form."""
    return _is_uuid(text) is not None


def parse_id(text: str) -> str:
    """Return the canonical form of a UUID.

    Raises: Rejected when it is not one.
    """
    if _is_uuid(text) is not None:
        return text
    lowered = text.lower()
    if _is_uuid(lowered) is None:
        raise Rejected(f"{text[:64]!r} is not a UUID")
    return lowered


def made_ms(canonical: str) -> int | None:
    """Return when a UUIDv7 was made, by the clock of who made it; None for any other version."""
    if canonical[14] != "7":
        return None
    return int(canonical[:8] + canonical[9:13], 16)


def id_bytes(canonical: str) -> bytes:
    """Return the 16 bytes of a canonical id: a third of the memory of its text in a deduplication set."""
    return unhexlify(canonical.replace("-", ""))


def shard_of(agent_ref: str, shards: int) -> int:
    """Return the shard an agent (or a name not yet resolved) belongs to: crc32 modulo the shards."""
    return crc32(agent_ref.encode()) % shards
