"""API keys of agents, as the HTTP edge takes and shows them. The key itself is in one reply only."""

from datetime import datetime

from msgspec import Struct

from schema.limits import KEY_OVERLAP_S_DEFAULT


class KeyView(Struct, kw_only=True):
    """A key without what would let anybody use it. `is_current`: the one this request was made with."""

    id: str
    agent_id: str
    prefix: str
    scopes: list[str]
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None
    last_used_at: datetime | None
    is_live: bool
    is_current: bool


class NewKeyRequest(Struct, kw_only=True):
    """Body of `POST /api/agents/{id}/keys`. Without `scopes`: all that the caller may pass on."""

    scopes: list[str] | None = None
    expires_at: datetime | None = None


class RotateRequest(Struct, kw_only=True):
    """Body of `POST /api/agents/{id}/keys/rotate`."""

    overlap_s: int = KEY_OVERLAP_S_DEFAULT


class IssuedKey(KeyView, kw_only=True):
    """Reply to a new key: the key itself, this once. `previous_expires_at`: when the one it replaces ends.
    `publishing_key`: what signs messages on the streams; null where the key may not send, or the deployment
    has no secrets key."""

    api_key: str
    publishing_key: str | None = None
    previous_expires_at: datetime | None = None
