"""Operations: agents."""

from collections.abc import Iterable, Sequence
from typing import Any, Literal

from broker.client.request import Listing, Request, path_of
from broker.client.subject import ShellT, Subject, listing, operation
from schema.agent import AgentView, Departure, RegisteredAgent
from schema.http import HeartbeatReply

# Outside the class, because inside it `list` is the operation.
_Rows = list[AgentView]


class Agents(Subject[ShellT]):
    """Who there is. Registering and deleting is for operators; an agent may change itself."""

    @operation("registerAgent")
    def register(
        self,
        /,
        name: str,
        *,
        type: str = "agent",
        endpoint: str | None = None,
        capabilities: Iterable[str] = (),
        **more: Any,  # the other fields of RegisterRequest
    ) -> Request[RegisteredAgent]:
        """Register an agent (operator). Its `api_key` and `signing_secret` are shown this once.

        Raises: NameTaken, AddressDenied, Rejected.
        """
        body = {"name": name, "type": type, "endpoint": endpoint, "capabilities": list(capabilities), **more}
        # Not repeatable: a second try could meet its own first one.
        return Request(method="POST", path="/api/agents", reply=RegisteredAgent, body=body, repeatable=False)

    @operation("showAgent")
    def show(self, reference: str) -> Request[AgentView]:
        """Return an agent by id or name. Raises: NotFound."""
        return Request(method="GET", path=f"/api/agents/{path_of(reference)}", reply=AgentView)

    @listing("listAgents")
    def list(
        self,
        *,
        status: str | None = None,
        type: str | None = None,
        capabilities: Sequence[str] = (),
        online: bool | None = None,
    ) -> Listing[AgentView]:
        """Yield every agent that matches, page after page."""
        query = {"status": status, "type": type, "capability": tuple(capabilities), "online": online}
        return Listing(first=Request(method="GET", path="/api/agents", reply=_Rows, query=query))

    __call__ = list

    @operation("heartbeat")
    def heartbeat(self, reference: str) -> Request[HeartbeatReply]:
        """Say that an agent is there. Raises: NotFound, AgentMismatch."""
        return Request(
            method="POST", path=f"/api/agents/{path_of(reference)}/heartbeat", reply=HeartbeatReply
        )

    @operation("changeAgent")
    def update(
        self,
        reference: str,
        /,
        **changes: Any,  # fields of AgentPatch
    ) -> Request[AgentView]:
        """Change some fields of an agent; None takes away. Raises: NotFound, NameTaken, AddressDenied."""
        path = f"/api/agents/{path_of(reference)}"
        return Request(method="PATCH", path=path, reply=AgentView, body=changes)

    @operation("deleteAgent")
    def delete(
        self,
        reference: str,
        *,
        mode: Literal["bounce", "drain"] = "bounce",
        timeout_s: int | None = None,
    ) -> Request[Departure]:
        """Delete an agent (operator). What waits for it goes back to its senders, at once or (`drain`) as far
        as it is not delivered within `timeout_s`. Raises: NotFound."""
        path = f"/api/agents/{path_of(reference)}"
        query = {"mode": mode, "timeout_s": timeout_s}
        return Request(method="DELETE", path=path, reply=Departure, query=query)
