"""Authentication: which principal a bearer key stands for.

The operator's key is compared in constant time. An agent's key is checked by its checksum first, so that
guesses cost no lookup, then against its row. Rows are cached: a hit counts for 30 s, which bounds how long a
revoked key still works; while Postgres is away it counts for 10 minutes, so that publishing goes on. Misses
are not cached: a key works as soon as it is stored.

A header that was proved once is remembered by its SHA-256, so that the next request with it costs one
look-up; what its key may do, and whether it still works, is read from the cached row every time.
"""

import asyncio
from functools import lru_cache
from hashlib import sha256
from typing import Final

from broker.core import keys
from broker.gateway.call import AGENT_SCOPES, OPERATOR, Principal, Scope
from broker.gateway.key_lookups import KeyLookups
from broker.store.keys import StoredKey
from broker.store.pool import Pool
from broker.streams.revocation import decode_revoked
from schema.errors import StoreUnavailable, Unauthenticated

FRESH_MS: Final = 30_000
STALE_MS: Final = 600_000
PATIENCE_S: Final = 1.0
"""How long Postgres may take over a key whose row is remembered; then it counts as away for this request."""
KEYS_CACHED_MAX: Final = 20_000
"""Beyond this the whole cache is dropped: the next calls look their keys up again."""
_UNPROVED: Final = ("", b"")
"""Names no key: no row has an empty id."""


class Keyring:
    """Knows the operator's key, and the agents' keys as Postgres and the cache have them."""

    def __init__(self, pool: Pool, *, operator_key: str, pepper: bytes) -> None:
        self._lookups = KeyLookups(pool)
        self._operator_key = operator_key
        self._pepper = pepper
        self._cached: dict[str, tuple[StoredKey, Principal, int]] = {}
        self._proved: dict[bytes, tuple[str, bytes] | None] = {}
        """By the hash of an `Authorization` header: the id and stored hash of the key in it, None for the
        operator's."""
        self._changes = 0

    def remembered(self, authorization: bytes, *, now_ms: int) -> Principal | None:
        """Return who the header stands for where that was proved before and its row is fresh; None says
        nothing: `principal_of` decides."""
        proof = self._proved.get(sha256(authorization).digest(), _UNPROVED)
        if proof is None:
            return OPERATOR
        key_id, key_hash = proof
        cached = self._cached.get(key_id)
        if cached is None or now_ms - cached[2] >= FRESH_MS:
            return None
        row, principal, _ = cached
        return principal if row.hash == key_hash and row.is_live(now_ms) else None

    async def principal_of(
        self, authorization: str | None, *, now_ms: int, fresh_ms: int = FRESH_MS
    ) -> Principal:
        """Return who the `Authorization` header stands for. `fresh_ms`: how old a remembered row may be.

        Raises: Unauthenticated; StoreUnavailable when an agent's key can neither be looked up nor remembered.
        """
        if authorization is None:
            raise Unauthenticated("a key is needed: Authorization: Bearer <key>")
        scheme, _, key = authorization.partition(" ")
        if scheme.lower() != "bearer" or not key:
            raise Unauthenticated("the Authorization header must be: Bearer <key>")
        if keys.same_text(key, self._operator_key):
            self._remember_proof(authorization, None)
            return OPERATOR
        row, principal = await self._agent(key, now_ms, fresh_ms)
        self._remember_proof(authorization, (row.id, row.hash))
        return principal

    async def owner_of(self, key_id: str, *, now_ms: int, fresh_ms: int = FRESH_MS) -> Principal:
        """Return who a key stands for that was proved in another way than by showing it.

        Raises: as `principal_of`.
        """
        found = await self._find(key_id, now_ms, fresh_ms)
        if found is None:
            raise Unauthenticated("this key is not known")
        _check_live(found[0], now_ms)
        return found[1]

    def forget(self, key_id: str) -> None:
        """Look this key up again next time: it was changed."""
        self._changes += 1
        self._cached.pop(key_id, None)

    def on_changed(self, data: bytes) -> None:
        """Hear which keys were changed somewhere."""
        for key_id in decode_revoked(data):
            self.forget(key_id)

    def digest(self, key: str) -> bytes:
        """Return what to store for a key."""
        return keys.digest(self._pepper, key)

    def _remember_proof(self, authorization: str, proof: tuple[str, bytes] | None) -> None:
        if len(self._proved) >= KEYS_CACHED_MAX:
            self._proved.clear()
        self._proved[sha256(authorization.encode("latin-1", "replace")).digest()] = proof

    async def _agent(self, key: str, now_ms: int, fresh_ms: int) -> tuple[StoredKey, Principal]:
        key_id = keys.key_id_of(key)
        found = await self._find(key_id, now_ms, fresh_ms) if key_id is not None else None
        if found is None:
            raise Unauthenticated("this key is not known")
        row, principal = found
        if not keys.matches(self._pepper, key, row.hash):
            raise Unauthenticated("this key is not known")
        _check_live(row, now_ms)
        return row, principal

    async def _find(self, key_id: str, now_ms: int, fresh_ms: int) -> tuple[StoredKey, Principal] | None:
        cached = self._cached.get(key_id)
        if cached is not None and now_ms - cached[2] < fresh_ms:
            return cached[:2]
        changes = self._changes
        stale = cached[:2] if cached is not None and now_ms - cached[2] < STALE_MS else None
        try:
            async with asyncio.timeout(PATIENCE_S if stale is not None else None):
                row = await self._lookups.find(key_id)
        except (StoreUnavailable, TimeoutError):
            if stale is not None:
                return stale
            raise
        if row is None:
            self.forget(key_id)
            return None
        if len(self._cached) >= KEYS_CACHED_MAX:
            self._cached.clear()
        principal = _principal(row)
        if changes == self._changes:
            # Else it may have been read before it was changed, and the word of that has come already.
            self._cached[key_id] = (row, principal, now_ms)
        return row, principal


def _principal(row: StoredKey) -> Principal:
    scopes = _scopes(row.scopes)
    if row.agent_id is None:
        return Principal(None, row.id, scopes)
    return Principal(row.agent_id, row.id, scopes & AGENT_SCOPES)


@lru_cache(maxsize=256)
def _scopes(names: tuple[str, ...]) -> frozenset[Scope]:
    """Return the scopes of these names that there are. Most keys have the same."""
    known = {scope.value: scope for scope in Scope}
    return frozenset(known[name] for name in names if name in known)


def _check_live(row: StoredKey, now_ms: int) -> None:
    if _reached(row.revoked_ms, now_ms):
        raise Unauthenticated("this key was revoked")
    if _reached(row.expires_ms, now_ms):
        raise Unauthenticated("this key has expired")


def _reached(moment_ms: int | None, now_ms: int) -> bool:
    return moment_ms is not None and moment_ms <= now_ms
