"""Rows of the contract: messages."""

from typing import Final

from broker.gateway import batch, messages, publishing, status
from broker.gateway.call import Scope
from broker.gateway.operation import Operation
from broker.gateway.sending import check_message
from schema import limits
from schema.delivery import AttemptView
from schema.errors import (
    AgentMismatch,
    Conflict,
    IllegalTransition,
    InboxFull,
    LoopDetected,
    NotAContact,
    NotFound,
    Overloaded,
    RateLimited,
    RecipientDisabled,
    StoreUnavailable,
    StreamsFull,
    StreamsUnavailable,
    UnknownRecipient,
)
from schema.http import BatchReply, RouteView
from schema.message import MessageView, SendRequest, StatusChange

MESSAGES: Final = (
    Operation(
        name="sendMessage",
        method="POST",
        path="/api/messages",
        summary="Send a message",
        tag="Messages",
        scope=Scope.MESSAGES_SEND,
        body=SendRequest,
        check=check_message,
        query=publishing.SendQuery,
        check_query=publishing.check_wait,
        idempotent_by_key=True,
        replies={201: MessageView, 202: MessageView},
        errors=(
            *(
                AgentMismatch,
                UnknownRecipient,
                RecipientDisabled,
                Conflict,
                NotAContact,
                RateLimited,
                InboxFull,
                LoopDetected,
            ),
            *(Overloaded, StreamsUnavailable, StreamsFull, StoreUnavailable),
        ),
        handler=publishing.send,
    ),
    Operation(
        name="sendBatch",
        method="POST",
        path="/api/messages/batch",
        summary="Send many messages",
        tag="Messages",
        scope=Scope.MESSAGES_SEND,
        body=list[SendRequest],
        raw_body=True,
        body_bytes_max=limits.BATCH_BYTES_MAX,
        query=batch.SendBatchQuery,
        replies={200: BatchReply},
        errors=(StreamsUnavailable, StreamsFull, Overloaded),
        handler=batch.send_batch,
    ),
    Operation(
        name="listMessages",
        method="GET",
        path="/api/messages",
        summary="List messages",
        tag="Messages",
        scope=Scope.MESSAGES_READ,
        query=messages.ListMessages,
        check_query=messages.check_list,
        replies={200: list[MessageView]},
        errors=(AgentMismatch, NotFound, StoreUnavailable),
        handler=messages.list_,
    ),
    Operation(
        name="showMessage",
        method="GET",
        path="/api/messages/{message_id}",
        summary="Show a message",
        tag="Messages",
        scope=Scope.MESSAGES_READ,
        replies={200: MessageView},
        errors=(NotFound, StoreUnavailable),
        handler=messages.show,
    ),
    Operation(
        name="listAttempts",
        method="GET",
        path="/api/messages/{message_id}/attempts",
        summary="List the attempts to deliver a message",
        tag="Messages",
        scope=Scope.MESSAGES_READ,
        replies={200: list[AttemptView]},
        errors=(NotFound, StoreUnavailable),
        handler=messages.attempts,
    ),
    Operation(
        name="showRoute",
        method="GET",
        path="/api/messages/{message_id}/route",
        summary="Show why a message went to its agent",
        tag="Messages",
        scope=Scope.MESSAGES_READ,
        replies={200: RouteView},
        errors=(NotFound, StoreUnavailable),
        handler=messages.route,
    ),
    Operation(
        name="changeStatus",
        method="PUT",
        path="/api/messages/{message_id}/status",
        summary="Say what became of a message",
        tag="Messages",
        scope=Scope.MESSAGES_UPDATE,
        body=StatusChange,
        check=status.check_change,
        replies={200: MessageView},
        errors=(AgentMismatch, NotFound, IllegalTransition, StoreUnavailable),
        handler=status.change_status,
    ),
)
