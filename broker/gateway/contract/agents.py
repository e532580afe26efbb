"""Rows of the contract: agents."""

from typing import Final

from broker.gateway import agent_changes, agents, departures
from broker.gateway.call import Scope
from broker.gateway.operation import Operation
from broker.gateway.registration import check_patch, check_registration
from schema.agent import AgentPatch, AgentView, Departure, RegisteredAgent, RegisterRequest
from schema.errors import (
    AddressDenied,
    AgentMismatch,
    NameTaken,
    NotFound,
    StoreUnavailable,
    StreamsFull,
    StreamsUnavailable,
)
from schema.http import HeartbeatReply

AGENTS: Final = (
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
    Operation(
        name="changeAgent",
        method="PATCH",
        path="/api/agents/{agent_id}",
        summary="Change an agent",
        tag="Agents",
        scope=Scope.AGENTS_UPDATE,
        body=AgentPatch,
        check=check_patch,
        replies={200: AgentView},
        errors=(
            *(AgentMismatch, NotFound, NameTaken, AddressDenied),
            *(StreamsUnavailable, StreamsFull, StoreUnavailable),
        ),
        handler=agent_changes.patch,
    ),
    Operation(
        name="deleteAgent",
        method="DELETE",
        path="/api/agents/{agent_id}",
        summary="Delete an agent",
        tag="Agents",
        scope=Scope.AGENTS_UPDATE,
        query=departures.DeleteAgent,
        check_query=departures.check_delete,
        replies={202: Departure},
        errors=(AgentMismatch, NotFound, StoreUnavailable),
        handler=departures.delete,
    ),
)
