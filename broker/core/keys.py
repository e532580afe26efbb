"""API keys of agents: their format and the hash that is stored. Pure: randomness comes in as arguments.

A key reads `abk_<key id>_<secret>_<checksum>`: 16 hex digits that name it, 43 characters of base64url (256
bits), and the CRC-32 of everything before, in hex. The checksum tells a mistyped or made-up key apart
without any lookup, and lets secret scanners recognise a leaked one. 256-bit secrets cannot be guessed, so
one keyed SHA-256 is a sufficient hash; the pepper (RFC 2104 HMAC key) makes a stolen table useless alone.
"""

import hmac
import re
from base64 import urlsafe_b64encode
from typing import Final, NamedTuple
from zlib import crc32

PREFIX: Final = "abk_"
KEY_ID_BYTES: Final = 8
SECRET_BYTES: Final = 32
KEY_CHARS: Final = 73
"""`abk_` + 16 + `_` + 43 + `_` + 8."""

_KEY = re.compile(r"(abk_([0-9a-f]{16})_[A-Za-z0-9_-]{43})_([0-9a-f]{8})")


class MintedKey(NamedTuple):
    """A new key: its id, the whole text (shown once) and the part that may be shown again."""

    id: str
    text: str
    prefix: str


def mint(key_id: bytes, secret: bytes) -> MintedKey:
    """Return the key made of 8 random bytes for its id and 32 for its secret."""
    if len(key_id) != KEY_ID_BYTES or len(secret) != SECRET_BYTES:
        raise ValueError("a key takes 8 bytes of id and 32 of secret")
    encoded = urlsafe_b64encode(secret).decode().rstrip("=")
    body = f"{PREFIX}{key_id.hex()}_{encoded}"
    return MintedKey(key_id.hex(), f"{body}_{checksum(body)}", f"{PREFIX}{key_id.hex()}")


def key_id_of(text: str) -> str | None:
    """Return the id a well-formed key names; None when the form or the checksum is wrong."""
    match = _KEY.fullmatch(text) if len(text) == KEY_CHARS else None
    if match is None or checksum(match[1]) != match[3]:
        return None
    return match[2]


def digest(pepper: bytes, text: str) -> bytes:
    """Return what is stored instead of the key."""
    return hmac.digest(pepper, text.encode(), "sha256")


def matches(pepper: bytes, text: str, stored: bytes) -> bool:
    """Tell in constant time whether the key is the one whose digest was stored."""
    return hmac.compare_digest(digest(pepper, text), stored)


def same_text(given: str, expected: str) -> bool:
    """Compare two secrets in constant time, whatever characters they hold."""
    return hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode())


def checksum(body: str) -> str:
    """Return what tells a mistyped key apart: the CRC-32 of everything before, in hex."""
    return f"{crc32(body.encode()):08x}"
