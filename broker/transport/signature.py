"""Signatures of pushes: Standard Webhooks 1.0, version `v1`, HMAC-SHA256 over `id.timestamp.body`.

Signs and verifies bytes, never parsed JSON. Rotation is two Signers, their signatures joined by a space.
Source: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import hashlib
from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping
from hmac import compare_digest
from secrets import token_bytes
from typing import Final

from schema.errors import Rejected, Unauthenticated

_PREFIX: Final = "whsec_"
_KEY_BYTES_MIN: Final = 24  # both bounds are the specification's
_KEY_BYTES_MAX: Final = 64
_KEY_BYTES_NEW: Final = 32
_BLOCK_BYTES: Final = 64
_INNER_PAD: Final = bytes(byte ^ 0x36 for byte in range(256))
_OUTER_PAD: Final = bytes(byte ^ 0x5C for byte in range(256))
_SIGNATURES_MAX: Final = 16
"""Signatures read from one header: a rotation has two, the rest is somebody making us hash."""


class Signer:
    """Signs for one secret.

    HMAC spelled out (RFC 2104): both hashes are keyed once and copied per message, which costs half of
    `hmac.digest` (1.3 against 2.5 us for 600 bytes on OpenSSL 3, whose key set-up is the dear part).

    Raises: Rejected (field `signing_secret`) when the secret is malformed.
    """

    __slots__ = ("_inner", "_outer")

    def __init__(self, secret: str) -> None:
        key = _key_of(secret).ljust(_BLOCK_BYTES, b"\0")
        self._inner: Final = hashlib.sha256(key.translate(_INNER_PAD))
        self._outer: Final = hashlib.sha256(key.translate(_OUTER_PAD))

    def sign(self, message_id: str, timestamp_s: int, body: bytes) -> bytes:
        """Return one signature as it stands in `webhook-signature`: `v1,<base64>`."""
        return b"v1," + self.seal(f"{message_id}.{timestamp_s}.".encode() + body)

    def seal(self, signed: bytes) -> bytes:
        """Return the base64 of a signature over `id.timestamp.body`, put together already."""
        inner = self._inner.copy()
        inner.update(signed)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return b2a_base64(outer.digest(), newline=False)


def new_secret() -> str:
    """Return a fresh secret: `whsec_` and 32 random bytes in base64."""
    return _PREFIX + b2a_base64(token_bytes(_KEY_BYTES_NEW), newline=False).decode()


def verify(
    secret: str, headers: Mapping[str, str], body: bytes, *, now_s: int, tolerance_s: int = 300
) -> None:
    """Check that a push carries a signature made with the secret, not older or newer than the tolerance.

    Header names are matched in any case; any one matching `v1` signature suffices.

    Raises: Unauthenticated saying what is wrong; Rejected when the secret itself is malformed.
    """
    lowered = {name.lower(): value for name, value in headers.items()}
    try:
        message_id, stamp, signatures = (
            lowered["webhook-id"],
            lowered["webhook-timestamp"],
            lowered["webhook-signature"],
        )
    except KeyError as missing:
        raise Unauthenticated(f"the header {missing.args[0]} is missing") from None
    timestamp_s = _timestamp(stamp)
    if abs(now_s - timestamp_s) > tolerance_s:
        raise Unauthenticated(f"the timestamp is more than {tolerance_s} s away from now")
    expected = Signer(secret).sign(message_id, timestamp_s, body)
    # Bytes, because compare_digest refuses text beyond ASCII, which a stranger's header may hold.
    given = signatures.encode("utf-8", "replace").split(b" ")[:_SIGNATURES_MAX]
    if not any(compare_digest(signature, expected) for signature in given):
        raise Unauthenticated("no signature matches")


def _timestamp(text: str) -> int:
    # ASCII digits only: int() would also take signs, underscores and other scripts, and then sign anew.
    if not (text.isascii() and text.isdigit() and len(text) <= 12):
        raise Unauthenticated("the timestamp is not a whole number of seconds")
    return int(text)


def _key_of(secret: str) -> bytes:
    text = secret.removeprefix(_PREFIX)
    if text == secret:
        raise Rejected(f"a signing secret begins with {_PREFIX}", field="signing_secret")
    try:
        key = a2b_base64(text + "=" * (-len(text) % 4), strict_mode=True)
    except (Base64Error, ValueError):
        raise Rejected("a signing secret is base64 after its prefix", field="signing_secret") from None
    if not _KEY_BYTES_MIN <= len(key) <= _KEY_BYTES_MAX:
        raise Rejected(
            f"a signing secret has {_KEY_BYTES_MIN} to {_KEY_BYTES_MAX} bytes, this one {len(key)}",
            field="signing_secret",
        )
    return key
