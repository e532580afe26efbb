"""The client for agents: every operation of the HTTP contract as a method, on httpx.

Replies are typed; what the broker refuses is raised as the class of `schema.errors` its code belongs to. A
call that may safely run twice is tried again while the broker is unavailable: reading, heartbeats, setting a
status, and sending, because a message carries an id of its own. Registering is not: a second try could meet
its own first one.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any, Final, Literal, Self, TypeVar
from urllib.parse import quote

import httpx
import msgspec

from broker.client.failures import raise_for
from schema import limits
from schema.agent import AgentView, RegisteredAgent
from schema.delivery import AttemptView
from schema.errors import Unavailable
from schema.http import BatchReply, BatchResult, HeartbeatReply
from schema.ids import new_id
from schema.message import Json, MessageView

T = TypeVar("T")
Wait = Literal["accepted", "recorded", "delivered", "processed"]

TRIES: Final = 3
BACKOFF_S: Final = 0.2
"""Before the second try; four times that before the third."""
TIMEOUT_S: Final = 10.0
CONNECTIONS_MAX: Final = 100


class Message(MessageView, kw_only=True):
    """A message as the contract shows it, its content decoded."""

    content: Json  # type: ignore[assignment]  # the same field, read instead of passed on
    metadata: Json  # type: ignore[assignment]  # the same field, read instead of passed on
    result: Any = None  # any JSON: whatever the recipient answered


class AgentClient:
    """Talks to one gateway. Use `async with AgentClient(url, key) as client`.

    `agent_id`: whom an operator's key acts as, where a call names no sender itself.
    """

    def __init__(
        self, url: str, key: str, *, agent_id: str | None = None, timeout_s: float = TIMEOUT_S
    ) -> None:
        headers = {"Authorization": f"Bearer {key}"}
        if agent_id is not None:
            headers["X-Agent-Id"] = agent_id
        self._timeout_s = timeout_s
        self._http = httpx.AsyncClient(
            base_url=url,
            headers=headers,
            timeout=timeout_s,
            limits=httpx.Limits(max_connections=CONNECTIONS_MAX),
            trust_env=False,
        )

    # --- agents -------------------------------------------------------------------------------------------

    async def register(
        self,
        name: str,
        *,
        type: str = "agent",
        endpoint: str | None = None,
        capabilities: Iterable[str] = (),
        **more: Any,  # the other fields of RegisterRequest
    ) -> RegisteredAgent:
        """Register an agent (operator). Its `api_key` and `signing_secret` are shown this once.

        Raises: NameTaken, AddressDenied, Rejected.
        """
        body = {"name": name, "type": type, "endpoint": endpoint, "capabilities": list(capabilities), **more}
        return await self._call("POST", "/api/agents", RegisteredAgent, body=body, tries=1)

    async def agent(self, reference: str) -> AgentView:
        """Return an agent by id or name. Raises: NotFound."""
        return await self._call("GET", f"/api/agents/{_path(reference)}", AgentView)

    async def agents(
        self,
        *,
        status: str | None = None,
        type: str | None = None,
        capabilities: Sequence[str] = (),
        online: bool | None = None,
    ) -> AsyncIterator[AgentView]:
        """Yield every agent that matches, page after page."""
        query = {"status": status, "type": type, "capability": list(capabilities), "online": online}
        async for agent in self._pages("/api/agents", query, list[AgentView]):
            yield agent

    async def heartbeat(self, reference: str) -> HeartbeatReply:
        """Say that an agent is there. Raises: NotFound, AgentMismatch."""
        return await self._call("POST", f"/api/agents/{_path(reference)}/heartbeat", HeartbeatReply)

    # --- messages -----------------------------------------------------------------------------------------

    async def send(
        self,
        content: Mapping[str, Any],  # an agent's own JSON
        *,
        to: str | None = None,
        requirements: Sequence[str] | None = None,
        wait: Wait = "recorded",
        timeout_ms: int = limits.WAIT_MS_DEFAULT,
        **more: Any,  # the other fields of SendRequest
    ) -> Message:
        """Send a message to an agent (`to`: id or name), or to one capable of the `requirements`.

        Returns it as far as it got within `timeout_ms`: `wait` says what to wait for. Safe to repeat with the
        same `id`; without one it gets one here.

        Raises: UnknownRecipient, AgentMismatch, Rejected, Unavailable.
        """
        body = _message(content, to, requirements, more)
        patience_s = self._timeout_s + (0 if wait == "accepted" else timeout_ms / 1000)
        return await self._call(
            "POST",
            "/api/messages",
            Message,
            query={"wait": wait, "timeout_ms": timeout_ms},
            body=body,
            timeout_s=patience_s,
        )

    async def send_batch(self, messages: Iterable[Mapping[str, Any]]) -> list[BatchResult]:
        """Send up to 1,000 messages (fields of SendRequest); return the id or the error of each, in order.

        Raises: Rejected for the batch as a whole, Unavailable.
        """
        body = [{"id": new_id(), **message} for message in messages]
        reply = await self._call("POST", "/api/messages/batch", BatchReply, body=body)
        return reply.results

    async def message(self, message_id: str) -> Message:
        """Return a message. Raises: NotFound."""
        return await self._call("GET", f"/api/messages/{_path(message_id)}", Message)

    async def messages(
        self,
        *,
        to: str | None = None,
        sender: str | None = None,
        conversation_id: str | None = None,
        status: str | None = None,
        message_type: str | None = None,
    ) -> AsyncIterator[Message]:
        """Yield every message that matches, by priority and age, page after page."""
        query = {
            "to_agent_id": to,
            "from_agent_id": sender,
            "conversation_id": conversation_id,
            "status": status,
            "message_type": message_type,
        }
        async for message in self._pages("/api/messages", query, list[Message]):
            yield message

    async def attempts(self, message_id: str) -> list[AttemptView]:
        """Return the attempts to deliver a message. Raises: NotFound."""
        return await self._call("GET", f"/api/messages/{_path(message_id)}/attempts", list[AttemptView])

    async def route(self, message_id: str) -> Json:
        """Return why a message went to its agent. Raises: NotFound."""
        return await self._call("GET", f"/api/messages/{_path(message_id)}/route", Json)

    async def processed(self, message_id: str, result: Any = None) -> Message:  # any JSON
        """Say that a message is done, with its result. Raises: NotFound, AgentMismatch, IllegalTransition."""
        return await self._set_status(message_id, {"status": "processed", "result": result})

    async def failed(self, message_id: str, reason: str) -> Message:
        """Say that a message could not be dealt with. Raises: as `processed`."""
        return await self._set_status(message_id, {"status": "failed", "reason": reason})

    async def cancel(self, message_id: str, reason: str | None = None) -> Message:
        """Take back a message of one's own that is pending. Raises: as `processed`."""
        return await self._set_status(message_id, {"status": "cancelled", "reason": reason})

    # --- operation ----------------------------------------------------------------------------------------

    async def is_ready(self) -> bool:
        """Tell whether the broker answers and can do its work."""
        try:
            return (await self._http.get("/readyz")).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    async def aclose(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    # --- inside -------------------------------------------------------------------------------------------

    async def _set_status(self, message_id: str, change: Json) -> Message:
        return await self._call("PUT", f"/api/messages/{_path(message_id)}/status", Message, body=change)

    async def _pages(self, path: str, query: Json, page: type[list[T]]) -> AsyncIterator[T]:
        cursor: str | None = None
        while True:
            asked = query | {"limit": limits.PAGE_ROWS_MAX, "cursor": cursor}
            reply = await self._send("GET", path, query=asked)
            for row in msgspec.json.decode(reply.content, type=page):
                yield row
            cursor = reply.headers.get("X-Next-Cursor")
            if cursor is None:
                return

    async def _call(
        self,
        method: str,
        path: str,
        reply_type: type[T],
        *,
        query: Json | None = None,
        body: Any = None,  # whatever the operation takes
        tries: int = TRIES,
        timeout_s: float | None = None,
    ) -> T:
        reply = await self._send(method, path, query=query, body=body, tries=tries, timeout_s=timeout_s)
        return msgspec.json.decode(reply.content, type=reply_type)

    async def _send(
        self,
        method: str,
        path: str,
        *,
        query: Json | None = None,
        body: Any = None,  # whatever the operation takes
        tries: int = TRIES,
        timeout_s: float | None = None,
    ) -> httpx.Response:
        """Send a request, again while the broker is unavailable and tries are left; raise what it refused."""
        request = self._http.build_request(
            method,
            path,
            params={name: value for name, value in (query or {}).items() if value is not None},
            content=None if body is None else msgspec.json.encode(body),
            headers=None if body is None else {"Content-Type": "application/json"},
            timeout=timeout_s if timeout_s is not None else self._timeout_s,
        )
        for attempt in range(tries):
            try:
                return await self._once(request)
            except Unavailable:
                if attempt == tries - 1:
                    raise
            await asyncio.sleep(BACKOFF_S * 4**attempt)
        raise AssertionError("unreachable")

    async def _once(self, request: httpx.Request) -> httpx.Response:
        try:
            reply = await self._http.send(request)
        except httpx.TransportError as error:
            raise Unavailable(
                f"the broker cannot be reached: {str(error) or type(error).__name__}"
            ) from error
        raise_for(reply.status_code, reply.content)
        return reply


def _message(
    content: Mapping[str, Any],  # an agent's own JSON
    to: str | None,
    requirements: Sequence[str] | None,
    more: Mapping[str, Any],  # fields of SendRequest, times among them
) -> Json:
    body: Json = {"id": new_id(), "content": content, **more}
    if to is not None:
        body["to_agent_id"] = to
    if requirements is not None:
        body["requirements"] = list(requirements)
    return body


def _path(reference: str) -> str:
    return quote(reference, safe="")
