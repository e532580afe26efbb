"""API keys of agents: list, add, rotate, revoke.

An agent manages its own, an operator anybody's. Invariant: a key passes on no scope it does not have, and no
more time than it has itself. Every gateway hears of a changed key by word and, should that be lost, looks it
up again within 30 s.
"""

from datetime import datetime
from secrets import token_bytes
from typing import Any, Final

from broker.core import keys
from broker.core.signing import publishing_key
from broker.gateway.access import authorize
from broker.gateway.agent_changes import addressed
from broker.gateway.call import AGENT_SCOPES, Call, NoQuery, Principal, Reply, Scope
from broker.gateway.reading import Faults
from broker.gateway.services import Services
from broker.store import keys as stored_keys
from broker.store.keys import StoredKey
from broker.store.pool import Connection
from schema import limits
from schema.errors import Forbidden, NotFound, Rejected, TooManyKeys, Unauthenticated
from schema.keys import IssuedKey, KeyView, NewKeyRequest, RotateRequest
from schema.times import as_utc, from_ms, to_ms

_GRANTABLE: Final = tuple(sorted(scope.value for scope in AGENT_SCOPES))


def check_new_key(request: NewKeyRequest, faults: Faults) -> None:
    """Note everything wrong with what a new key is to be."""
    if request.scopes is not None:
        if not request.scopes:
            faults.add("scopes", "at least one; without this field: all")
        elif len(request.scopes) > len(_GRANTABLE):
            faults.add("scopes", f"at most {len(_GRANTABLE)}")
        else:
            for index, scope in enumerate(request.scopes):
                if scope not in _GRANTABLE:
                    faults.add(f"scopes[{index}]", f"must be one of {', '.join(_GRANTABLE)}")
    if request.expires_at is not None:
        try:
            as_utc(request.expires_at)
        except OverflowError:
            faults.add("expires_at", "is outside the years 1 to 9999 in UTC")


def check_rotation(request: RotateRequest, faults: Faults) -> None:
    """Note everything wrong with a rotation."""
    if not 0 <= request.overlap_s <= limits.KEY_OVERLAP_S_MAX:
        faults.add("overlap_s", f"must be 0 to {limits.KEY_OVERLAP_S_MAX}")


async def list_keys(call: Call[None, NoQuery]) -> Reply:
    """List an agent's keys, the newest first, also those that work no more. Never the key itself."""
    agent_id = await _managed(call)
    found = await stored_keys.of_agent(call.services.pool, agent_id)
    now_ms = call.services.now_ms()
    return Reply(body=[KeyView(**_shown(key, call.principal, now_ms)) for key in found])


async def add_key(call: Call[NewKeyRequest, NoQuery]) -> Reply:
    """Add a key; the reply holds it, this once. Without `scopes` it may do whatever the caller may and an
    agent's key can. A key can pass on neither a scope it does not have nor more time than it has left."""
    services, request = call.services, call.body
    agent_id = await _managed(call)
    now_ms = services.now_ms()
    scopes = _granted(call.principal, request.scopes)
    expires_ms = _expiry(request.expires_at, now_ms)
    async with services.pool.transaction() as connection:
        live = await stored_keys.live_with(connection, agent_id, now_ms=now_ms)
        if len(live) >= limits.KEYS_LIVE_MAX:
            raise TooManyKeys(f"the agent has {len(live)} keys that work; revoke one first")
        own = _own(call.principal, live)
        expires_ms = _within(own, expires_ms)
        key, text = await _mint(services, connection, agent_id, scopes, expires_ms, now_ms)
    return _issued(call, key, text, now_ms)


async def rotate_keys(call: Call[RotateRequest, NoQuery]) -> Reply:
    """Replace the key this request was made with (an operator: the newest). The new one has the same scopes,
    the old one works for `overlap_s` more, and every other key of the agent ends now."""
    services = call.services
    agent_id = await _managed(call)
    now_ms = services.now_ms()
    async with services.pool.transaction() as connection:
        live = await stored_keys.live_with(connection, agent_id, now_ms=now_ms)
        own = _own(call.principal, live)
        replaced = own or (live[0] if live else None)
        scopes = _GRANTABLE if own is None else own.scopes
        key, text = await _mint(services, connection, agent_id, scopes, _within(own, None), now_ms)
        for old in live:
            overlap_ms = call.body.overlap_s * 1000 if old is replaced else 0
            await stored_keys.expire_with(connection, old.id, at_ms=now_ms + overlap_ms)
    await services.keys_changed([old.id for old in live])
    return _issued(call, key, text, now_ms, _end_of(replaced, now_ms + call.body.overlap_s * 1000))


async def revoke_key(call: Call[None, NoQuery]) -> Reply:
    """Revoke a key: it stops working at once, at the latest after 30 s. Doing it again is fine; so is
    revoking the last one, or the one this request is made with."""
    services = call.services
    agent_id = await _managed(call)
    now_ms = services.now_ms()
    key = await stored_keys.revoke(services.pool, call.path["key_id"], agent_id, now_ms=now_ms)
    if key is None:
        raise NotFound("the agent has no such key")
    await services.keys_changed([key.id])
    return Reply(body=KeyView(**_shown(key, call.principal, now_ms)))


async def _managed(call: Call[Any, Any]) -> str:  # any body, any query
    """Return the agent whose keys the caller may manage. Raises: NotFound, AgentMismatch."""
    agent_id = await addressed(call)
    authorize(call.principal, Scope.KEYS, agent_id)
    return agent_id


def _granted(principal: Principal, asked: list[str] | None) -> tuple[str, ...]:
    """Return the scopes of a new key. Raises: Forbidden for one the caller does not have."""
    own = {scope.value for scope in principal.scopes & AGENT_SCOPES}
    wanted = own if asked is None else set(asked)
    if beyond := wanted - own:
        raise Forbidden(
            f"this key cannot pass on what it may not do: {', '.join(sorted(beyond))}", field="scopes"
        )
    return tuple(sorted(wanted))


def _expiry(moment: datetime | None, now_ms: int) -> int | None:
    """Return when a new key is to end. Raises: Rejected for the past."""
    if moment is None:
        return None
    expires_ms = to_ms(as_utc(moment))
    if expires_ms <= now_ms:
        raise Rejected("expires_at: must be in the future", field="expires_at")
    return expires_ms


def _own(principal: Principal, live: list[StoredKey]) -> StoredKey | None:
    """Return the caller's key; None for an operator. Raises: Unauthenticated when it works no more."""
    if principal.is_operator:
        return None
    own = next((key for key in live if key.id == principal.key_id), None)
    if own is None:
        raise Unauthenticated("this key was revoked")
    return own


def _within(own: StoredKey | None, expires_ms: int | None) -> int | None:
    """Return the end of a key made with another: not after that one's own. Raises: Forbidden."""
    if own is None or own.expires_ms is None:
        return expires_ms
    if expires_ms is not None and expires_ms > own.expires_ms:
        raise Forbidden("this key cannot pass on more time than it has", field="expires_at")
    return expires_ms or own.expires_ms


async def _mint(
    services: Services,
    connection: Connection,
    agent_id: str,
    scopes: tuple[str, ...],
    expires_ms: int | None,
    now_ms: int,
) -> tuple[StoredKey, str]:
    minted = keys.mint(token_bytes(keys.KEY_ID_BYTES), token_bytes(keys.SECRET_BYTES))
    key = StoredKey(
        id=minted.id,
        agent_id=agent_id,
        scopes=scopes,
        hash=services.keyring.digest(minted.text),
        prefix=minted.prefix,
        created_ms=now_ms,
        expires_ms=expires_ms,
    )
    await stored_keys.insert_with(connection, key)
    return key, minted.text


def _end_of(replaced: StoredKey | None, end_ms: int) -> int | None:
    if replaced is None:
        return None
    return end_ms if replaced.expires_ms is None else min(end_ms, replaced.expires_ms)


def _issued(
    call: Call[Any, Any],  # any body, any query
    key: StoredKey,
    text: str,
    now_ms: int,
    previous_ms: int | None = None,
) -> Reply:
    secrets_keys = call.services.settings.secrets_keys
    signs = bool(secrets_keys) and Scope.MESSAGES_SEND.value in key.scopes
    body = IssuedKey(
        **_shown(key, call.principal, now_ms),
        api_key=text,
        publishing_key=publishing_key(secrets_keys, key.id) if signs else None,
        previous_expires_at=_moment(previous_ms),
    )
    return Reply(status=201, body=body, headers=(("Cache-Control", "no-store"),))


def _shown(key: StoredKey, principal: Principal, now_ms: int) -> dict[str, Any]:  # fields have as many types
    return {
        "id": key.id,
        "agent_id": key.agent_id,
        "prefix": key.prefix,
        "scopes": list(key.scopes),
        "created_at": from_ms(key.created_ms),
        "expires_at": _moment(key.expires_ms),
        "revoked_at": _moment(key.revoked_ms),
        "last_used_at": _moment(key.used_ms),
        "is_live": key.is_live(now_ms),
        "is_current": key.id == principal.key_id,
    }


def _moment(at_ms: int | None) -> datetime | None:
    return None if at_ms is None else from_ms(at_ms)
