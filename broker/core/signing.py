"""Signatures of native publishers: the keys they are made with, making them, checking them. Pure.

A publishing key belongs to an API key, of which it has the id, and cannot be turned into it. Its secret is
derived from the deployment's `SECRETS_KEY` (HKDF, RFC 5869, with SHA-256), so that nothing is stored: whoever
knows that key can check every signature, and which publishing key was given to whom is in the table of keys.

A signature is the HMAC-SHA256, in hex, of the messages of an entry, one behind the other. Where one ends and
the next begins needs no saying: no JSON object is the beginning of another, so what decodes has one reading.
"""

import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Final

from broker.core.keys import checksum
from schema.errors import Rejected

PREFIX: Final = "abp_"
KEY_ID_FIELD: Final = "k"
SIGNATURE_FIELD: Final = "sig"

_KEY = re.compile(r"(abp_([0-9a-f]{16})_([A-Za-z0-9_-]{43}))_([0-9a-f]{8})")
_KEY_ID = re.compile(rb"[0-9a-f]{16}")
_DERIVATION: Final = b"agent-broker native publishing, version 1\x00"
_NO_SALT: Final = bytes(32)


class Refusal(Enum):
    """Why an entry is not let in. UNSIGNED: it has no signature. BAD_SIGNATURE: not by a key of this
    deployment, or not of these messages. KEY_ENDED: by a key that was revoked, has expired or is gone.
    NOT_THE_SENDER: by somebody who may not send as `from_agent_id`, or not at all. MALFORMED: what was signed
    is no message."""

    UNSIGNED = "unsigned"
    BAD_SIGNATURE = "bad_signature"
    KEY_ENDED = "key_ended"
    NOT_THE_SENDER = "not_the_sender"
    MALFORMED = "malformed"


class Signer:
    """Signs as the holder of a publishing key."""

    __slots__ = ("_secret", "key_id")

    def __init__(self, publishing_key: str) -> None:
        """Raises: Rejected for what is no publishing key."""
        match = _KEY.fullmatch(publishing_key)
        if match is None or checksum(match[1]) != match[4]:
            raise Rejected("not a publishing key: abp_..., as it was shown with a new API key")
        self.key_id: Final = match[2]
        self._secret: Final = urlsafe_b64decode(match[3] + "=")

    def fields(self, messages: Iterable[bytes]) -> tuple[str, str, str, str]:
        """Return the fields that make an entry with these messages a signed one."""
        return KEY_ID_FIELD, self.key_id, SIGNATURE_FIELD, _signature(self._secret, messages)


def publishing_key(secrets_keys: Sequence[str], key_id: str) -> str:
    """Return the publishing key that belongs to an API key, derived from the deployment's first key."""
    secret = urlsafe_b64encode(_derived(secrets_keys[0], key_id)).decode().rstrip("=")
    body = f"{PREFIX}{key_id}_{secret}"
    return f"{body}_{checksum(body)}"


def is_signed(
    secrets_keys: Iterable[str], key_id: bytes, signature: bytes, messages: Sequence[bytes]
) -> bool:
    """Tell in constant time whether the messages were signed with the publishing key of this id, derived from
    any of the deployment's keys. It says nothing of whether that key still works, or whose it is."""
    if _KEY_ID.fullmatch(key_id) is None:
        return False
    return any(
        hmac.compare_digest(_signature(_derived(key, key_id.decode()), messages).encode(), signature)
        for key in secrets_keys
    )


def _signature(secret: bytes, messages: Iterable[bytes]) -> str:
    digest = hmac.new(secret, digestmod="sha256")
    for message in messages:
        digest.update(message)
    return digest.hexdigest()


def _derived(secrets_key: str, key_id: str) -> bytes:
    """Return the secret of a publishing key: extract and expand of RFC 5869, for one block of output."""
    extracted = hmac.digest(_NO_SALT, secrets_key.encode(), "sha256")
    return hmac.digest(extracted, _DERIVATION + key_id.encode() + b"\x01", "sha256")
