"""Who may do what: the one function that decides, and the rules by which a claimed agent becomes the caller.

The key is the identity; an agent named in body, query or `X-Agent-Id` is only a claim. A key of an agent may
repeat who it is, never be somebody else. An operator may claim anyone, or no one.
"""

from typing import Any

from broker.gateway.call import Call, Principal, Scope
from schema.errors import AgentMismatch, Forbidden, NotFound
from schema.ids import is_id
from schema.message import MessageView


def authorize(principal: Principal, action: Scope, agent_id: str | None = None) -> None:
    """Let the principal do this, to this agent where the action has one.

    Raises: Forbidden without the scope, AgentMismatch for another agent.
    """
    if action not in principal.scopes:
        raise Forbidden(f"this key may not do {action.value}")
    if agent_id is not None and principal.agent_id not in (None, agent_id):
        raise AgentMismatch("this key belongs to another agent")


async def acting_agent(call: Call[Any, Any], *claims: str | None) -> str | None:  # any body, any query
    """Return the id of the agent the caller acts as: of an operator the first claim, if there is one.

    `claims`: what body and query name, strongest first; the header comes last.

    Raises: AgentMismatch when an agent's key claims another; Rejected for a claim nobody is registered under.
    """
    made = [claim for claim in (*claims, call.claimed_agent) if claim is not None]
    own = call.principal.agent_id
    if own is None:
        return await call.services.agents.sender(made[0]) if made else None
    for claim in made:
        if not await _is_same(call, claim, own):
            raise AgentMismatch("this key belongs to another agent")
    return own


async def check_claim(call: Call[Any, Any]) -> None:  # any body, any query
    """Let an agent's key say in `X-Agent-Id` who it is, whatever the operation. Raises: AgentMismatch."""
    own, claim = call.principal.agent_id, call.claimed_agent
    if own is not None and claim is not None and not await _is_same(call, claim, own):
        raise AgentMismatch("this key belongs to another agent")


def may_see(principal: Principal, message: MessageView) -> bool:
    """Tell whether the message concerns the principal: its sender, its recipient, or an operator."""
    return principal.is_operator or principal.agent_id in (message.from_agent_id, message.to_agent_id)


def require_visible(principal: Principal, message: MessageView | None) -> MessageView:
    """Return the message. Raises: NotFound also for a foreign one, so that ids tell a stranger nothing."""
    if message is None or not may_see(principal, message):
        raise NotFound("no such message")
    return message


async def _is_same(call: Call[Any, Any], claim: str, own: str) -> bool:  # any body, any query
    if claim == own:
        return True
    if is_id(claim.lower()):
        return claim.lower() == own
    return await call.services.agents.find(claim) == own
