"""Secrets at rest: sealed with a key of the deployment before they are stored, opened when they are read.

AES-256-GCM (NIST SP 800-38D) with a random 96-bit nonce, bound to what the secret belongs to: a sealed text
that is copied to another agent's row does not open there. Stored as `sealed:1:<key name>:<base64>`; the name
is a hash of the key, so that several keys can be in use while one replaces another. Pure: nonces come in as
arguments.

Invariant: opening never fails. What is sealed with a key that is not here stays as it is, and whoever holds
it sees by its beginning that it is of no use; what was never sealed (an older release stored it) is returned
as it is.
"""

from binascii import Error as Base64Error
from binascii import a2b_base64, b2a_base64
from collections.abc import Sequence
from hashlib import sha256
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from schema.agent import SEALED

NONCE_BYTES: Final = 12
_VERSION: Final = f"{SEALED}1:"
_NAME_CHARS: Final = 8
_DERIVATION: Final = b"agent-broker secrets at rest, version 1\x00"


class Sealer:
    """Seals with the first of the keys and opens with any; without keys it leaves everything as it is."""

    __slots__ = ("_keys", "current")

    def __init__(self, keys: Sequence[str] = ()) -> None:
        derived = [sha256(_DERIVATION + key.encode()).digest() for key in keys]
        self._keys: Final = {_name_of(key): AESGCM(key) for key in derived}
        self.current: Final = f"{_VERSION}{_name_of(derived[0])}:" if derived else ""
        """What a text sealed with the first key begins with; empty without keys."""

    def has(self, mark: str) -> bool:
        """Tell whether what begins with this mark can be opened."""
        return mark.startswith(_VERSION) and mark[len(_VERSION) : -1] in self._keys

    def seal(self, secret: str, *, owner: str, nonce: bytes) -> str:
        """Return the secret as it is to be stored; one that is sealed already, or empty, as it is."""
        if not secret or not self.current or secret.startswith(SEALED):
            return secret
        name = self.current[len(_VERSION) : -1]
        sealed = nonce + self._keys[name].encrypt(nonce, secret.encode(), owner.encode())
        return self.current + b2a_base64(sealed, newline=False).decode()

    def open(self, stored: str, *, owner: str) -> str:
        """Return the secret; still sealed where none of the keys opens it for this owner."""
        if not stored.startswith(_VERSION):
            return stored
        name, _, text = stored[len(_VERSION) :].partition(":")
        key = self._keys.get(name)
        if key is None:
            return stored
        try:
            sealed = a2b_base64(text, strict_mode=True)
            return key.decrypt(sealed[:NONCE_BYTES], sealed[NONCE_BYTES:], owner.encode()).decode()
        except (InvalidTag, Base64Error, ValueError):
            return stored


def _name_of(key: bytes) -> str:
    return sha256(b"name of " + key).hexdigest()[:_NAME_CHARS]
