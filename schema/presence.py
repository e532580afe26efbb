"""Presence and pings: what agents say and see of who is there."""

from datetime import datetime
from enum import Enum
from typing import Final

from msgspec import UNSET, Struct, UnsetType

from schema.http import HeartbeatReply
from schema.quick import quick

PING_TYPE: Final = "ping"
"""The type of the messages that pings leave."""


@quick
class PresenceState(Enum):
    """`ONLINE`: heard of within a minute. `AWAY`: not for a while, still expected. `GONE`: silent for so long
    that nothing is routed to it by capability, or never heard of."""

    ONLINE = "online"
    AWAY = "away"
    GONE = "gone"


class PresenceChange(Struct, kw_only=True, gc=False):
    """Word that an agent's state changed, as published on `ab:presence` in arrays."""

    agent_id: str
    state: PresenceState
    at: datetime


class PresenceUpdate(Struct, kw_only=True):
    """Body of `PUT /api/v1/messaging/presence`: any subset. A null `status_message` clears it."""

    status_message: str | UnsetType | None = UNSET
    accepts_work_orders: bool | UnsetType = UNSET
    max_concurrent_jobs: int | UnsetType = UNSET


class Heartbeats(Struct, kw_only=True):
    """Body of `POST /api/v1/messaging/heartbeats`: who is there, by id."""

    agent_ids: list[str]


class SignsOfLife(Struct, kw_only=True):
    """Reply to `POST /api/v1/messaging/heartbeats`: how many agents were heard of, and when."""

    agents: int
    heartbeat_at: datetime


class PresenceView(Struct, kw_only=True):
    """An agent's presence as the contract shows it. `active_jobs`: work orders it has accepted."""

    agent_id: str
    name: str
    is_online: bool
    state: PresenceState
    last_heartbeat_at: datetime | None
    status_message: str | None
    accepts_work_orders: bool
    max_concurrent_jobs: int
    active_jobs: int


class SignOfLife(HeartbeatReply, kw_only=True):
    """Reply to `POST /api/v1/messaging/heartbeat`."""

    success: bool = True


class PingRequest(Struct, kw_only=True):
    """Body of `POST /api/v1/messaging/ping`."""

    to_agent_id: str
    message: str | None = None


class PingContent(Struct, kw_only=True):
    """Content of a message of type `ping`."""

    message: str | None


class PingTarget(Struct, kw_only=True):
    """Who was pinged, and what is known of it."""

    id: str
    name: str
    is_online: bool
    status_message: str | None
    accepts_work_orders: bool
    state: PresenceState


class PingReply(Struct, kw_only=True):
    """Reply to a ping: it lies in the target's inbox, whether the target is online or not."""

    success: bool
    message_id: str
    target_agent: PingTarget
