"""Rows of the contract: live sessions."""

from typing import Final

from broker.gateway.call import Scope
from broker.gateway.operation import Operation
from broker.gateway.realtime import opening
from schema.errors import (
    AgentMismatch,
    HasEndpoint,
    NotFound,
    Rejected,
    StoreUnavailable,
    StreamsFull,
    StreamsUnavailable,
    TooManySessions,
)

REALTIME: Final = (
    Operation(
        name="streamMessages",
        method="GET",
        path="/api/v1/messaging/stream",
        summary="Stream an agent's messages",
        tag="Inbox",
        scope=Scope.MESSAGES_READ,
        query=opening.StreamQuery,
        check_query=opening.check_stream,
        streams=True,
        media_type="text/event-stream",
        replies={101: None, 200: None},
        errors=(
            *(Rejected, AgentMismatch, NotFound, HasEndpoint, TooManySessions),
            *(StreamsUnavailable, StreamsFull, StoreUnavailable),
        ),
        handler=opening.open_stream,
    ),
)
