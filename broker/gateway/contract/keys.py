"""Rows of the contract: API keys and signing secrets of agents."""

from typing import Final

from broker.gateway import agent_changes, agent_keys
from broker.gateway.call import Scope
from broker.gateway.operation import Operation
from schema.agent import SigningSecret
from schema.errors import AgentMismatch, NotFound, StoreUnavailable, StreamsUnavailable, TooManyKeys
from schema.keys import IssuedKey, KeyView, NewKeyRequest, RotateRequest

KEYS: Final = (
    Operation(
        name="listKeys",
        method="GET",
        path="/api/agents/{agent_id}/keys",
        summary="List the keys of an agent",
        tag="Keys",
        scope=Scope.KEYS,
        replies={200: list[KeyView]},
        errors=(AgentMismatch, NotFound, StoreUnavailable),
        handler=agent_keys.list_keys,
    ),
    Operation(
        name="addKey",
        method="POST",
        path="/api/agents/{agent_id}/keys",
        summary="Add a key for an agent",
        tag="Keys",
        scope=Scope.KEYS,
        body=NewKeyRequest,
        optional_body=True,
        check=agent_keys.check_new_key,
        replies={201: IssuedKey},
        errors=(AgentMismatch, NotFound, TooManyKeys, StoreUnavailable),
        handler=agent_keys.add_key,
    ),
    Operation(
        name="rotateKeys",
        method="POST",
        path="/api/agents/{agent_id}/keys/rotate",
        summary="Replace the keys of an agent",
        tag="Keys",
        scope=Scope.KEYS,
        body=RotateRequest,
        optional_body=True,
        check=agent_keys.check_rotation,
        replies={201: IssuedKey},
        errors=(AgentMismatch, NotFound, StoreUnavailable),
        handler=agent_keys.rotate_keys,
    ),
    Operation(
        name="revokeKey",
        method="DELETE",
        path="/api/agents/{agent_id}/keys/{key_id}",
        summary="Revoke a key",
        tag="Keys",
        scope=Scope.KEYS,
        replies={200: KeyView},
        errors=(AgentMismatch, NotFound, StoreUnavailable),
        handler=agent_keys.revoke_key,
    ),
    Operation(
        name="rotateSigningSecret",
        method="POST",
        path="/api/agents/{agent_id}/signing-secret/rotate",
        summary="Replace the secret pushes are signed with",
        tag="Keys",
        scope=Scope.KEYS,
        replies={201: SigningSecret},
        errors=(AgentMismatch, NotFound, StreamsUnavailable, StoreUnavailable),
        handler=agent_changes.rotate_secret,
    ),
)
