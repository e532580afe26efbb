"""Rows of the contract: presence and pings."""

from typing import Final

from broker.gateway.call import Scope
from broker.gateway.coordination import pings, presence
from broker.gateway.operation import Operation
from schema.errors import (
    AgentMismatch,
    InboxFull,
    LoopDetected,
    NotAContact,
    NotFound,
    Overloaded,
    RateLimited,
    RecipientDisabled,
    Rejected,
    StoreUnavailable,
    StreamsFull,
    StreamsUnavailable,
    UnknownRecipient,
)
from schema.presence import (
    Heartbeats,
    PingReply,
    PingRequest,
    PresenceUpdate,
    PresenceView,
    SignOfLife,
    SignsOfLife,
)

PRESENCE: Final = (
    Operation(
        name="sendHeartbeat",
        method="POST",
        path="/api/v1/messaging/heartbeat",
        summary="Say that the agent is there",
        tag="Presence",
        scope=Scope.HEARTBEAT,
        query=presence.CallerQuery,
        replies={200: SignOfLife},
        errors=(AgentMismatch, Rejected, StreamsUnavailable, StreamsFull, StoreUnavailable),
        handler=presence.heartbeat,
    ),
    Operation(
        name="sendHeartbeats",
        method="POST",
        path="/api/v1/messaging/heartbeats",
        summary="Say that many agents are there",
        tag="Presence",
        scope=Scope.HEARTBEAT,
        body=Heartbeats,
        check=presence.check_heartbeats,
        replies={200: SignsOfLife},
        errors=(AgentMismatch, StreamsUnavailable, StreamsFull),
        handler=presence.heartbeats,
    ),
    Operation(
        name="changePresence",
        method="PUT",
        path="/api/v1/messaging/presence",
        summary="Say how the agent is",
        tag="Presence",
        scope=Scope.HEARTBEAT,
        body=PresenceUpdate,
        check=presence.check_update,
        query=presence.CallerQuery,
        replies={200: PresenceView},
        errors=(AgentMismatch, NotFound, StreamsUnavailable, StreamsFull, StoreUnavailable),
        handler=presence.change,
    ),
    Operation(
        name="showPresence",
        method="GET",
        path="/api/v1/messaging/presence/{agent_id}",
        summary="Show whether an agent is there",
        tag="Presence",
        scope=Scope.AGENTS_READ,
        replies={200: PresenceView},
        errors=(NotFound, StoreUnavailable),
        handler=presence.show,
    ),
    Operation(
        name="pingAgent",
        method="POST",
        path="/api/v1/messaging/ping",
        summary="Let an agent know that it is wanted",
        tag="Presence",
        scope=Scope.MESSAGES_SEND,
        body=PingRequest,
        check=pings.check_ping,
        query=pings.SenderQuery,
        replies={200: PingReply},
        errors=(
            *(AgentMismatch, UnknownRecipient, RecipientDisabled, NotAContact, RateLimited),
            *(InboxFull, LoopDetected, Overloaded),
            *(StreamsUnavailable, StreamsFull, StoreUnavailable),
        ),
        handler=pings.ping,
    ),
)
