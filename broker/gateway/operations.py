"""The table of operations: the HTTP contract, row by row.

Routes, authorisation, limits and OpenAPI are all read from here. To add an operation: write its handler in
the module of its subject, name its types, add a row.
"""

from typing import Any, Final

from broker.gateway import agents, batch, documentation, health, messages, status
from broker.gateway.call import Scope
from broker.gateway.operation import Operation
from broker.gateway.registration import check_registration
from broker.gateway.sending import check_message
from schema import limits
from schema.agent import AgentView, RegisteredAgent, RegisterRequest
from schema.delivery import AttemptView
from schema.errors import (
    AddressDenied,
    AgentMismatch,
    Conflict,
    IllegalTransition,
    NameTaken,
    NotFound,
    StoreUnavailable,
    StreamsFull,
    StreamsUnavailable,
    UnknownRecipient,
)
from schema.http import BatchReply, HealthReply, HeartbeatReply, ReadyReply, RouteView
from schema.message import MessageView, SendRequest, StatusChange

_AGENTS: Final = (
    Operation(
        name="registerAgent",
        method="POST",
        path="/api/agents",
        summary="Register an agent",
        tag="Agents",
        scope=Scope.AGENTS_WRITE,
        body=RegisterRequest,
        check=check_registration,
        replies={201: RegisteredAgent},
        errors=(NameTaken, AddressDenied, StoreUnavailable),
        handler=agents.register,
    ),
    Operation(
        name="listAgents",
        method="GET",
        path="/api/agents",
        summary="List agents",
        tag="Agents",
        scope=Scope.AGENTS_READ,
        query=agents.ListAgents,
        check_query=agents.check_list,
        replies={200: list[AgentView]},
        handler=agents.list_,
    ),
    Operation(
        name="showAgent",
        method="GET",
        path="/api/agents/{agent_id}",
        summary="Show an agent",
        tag="Agents",
        scope=Scope.AGENTS_READ,
        replies={200: AgentView},
        errors=(NotFound, StoreUnavailable),
        handler=agents.show,
    ),
    Operation(
        name="heartbeat",
        method="POST",
        path="/api/agents/{agent_id}/heartbeat",
        summary="Say that an agent is there",
        tag="Agents",
        scope=Scope.HEARTBEAT,
        replies={200: HeartbeatReply},
        errors=(AgentMismatch, NotFound, StreamsUnavailable, StoreUnavailable),
        handler=agents.heartbeat,
    ),
)

_MESSAGES: Final = (
    Operation(
        name="sendMessage",
        method="POST",
        path="/api/messages",
        summary="Send a message",
        tag="Messages",
        scope=Scope.MESSAGES_SEND,
        body=SendRequest,
        check=check_message,
        query=messages.SendQuery,
        check_query=messages.check_wait,
        replies={201: MessageView, 202: MessageView},
        errors=(
            *(AgentMismatch, UnknownRecipient, Conflict),
            *(StreamsUnavailable, StreamsFull, StoreUnavailable),
        ),
        handler=messages.send,
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
        errors=(StreamsUnavailable, StreamsFull),
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

_OPERATORS: Final = (
    Operation(
        name="healthz",
        method="GET",
        path="/healthz",
        summary="Whether the process is up",
        tag="Operation",
        scope=None,
        replies={200: HealthReply},
        errors=(),
        handler=health.healthz,
    ),
    Operation(
        name="readyz",
        method="GET",
        path="/readyz",
        summary="Whether requests can be served",
        tag="Operation",
        scope=None,
        replies={200: ReadyReply, 503: ReadyReply},
        errors=(),
        handler=health.readyz,
    ),
    Operation(
        name="openapi",
        method="GET",
        path="/openapi.json",
        summary="This contract as OpenAPI 3.1",
        tag="Operation",
        scope=None,
        replies={200: dict[str, Any]},  # the document is JSON Schema in JSON
        errors=(),
        handler=documentation.show_document,
    ),
    Operation(
        name="docs",
        method="GET",
        path="/docs",
        summary="This contract to read and try",
        tag="Operation",
        scope=None,
        replies={200: None},
        media_type="text/html",
        errors=(),
        handler=documentation.show_page,
    ),
)

OPERATIONS: Final = (*_AGENTS, *_MESSAGES, *_OPERATORS)
