"""Operations: messages."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from broker.client.request import Listing, Request, given, path_of
from broker.client.subject import ShellT, Subject, listing, operation
from broker.client.values import SentMessage, Wait
from schema import limits
from schema.delivery import AttemptView
from schema.http import BatchReply
from schema.ids import new_id
from schema.message import Json
from schema.routing import ExplainReply

# Outside the class, because inside it `list` is the operation.
_Rows = list[SentMessage]
_Attempts = list[AttemptView]


class Messages(Subject[ShellT]):
    """Sending, and what became of it."""

    @operation("sendMessage")
    def send(
        self,
        /,
        content: Mapping[str, Any],  # an agent's own JSON
        *,
        to: str | None = None,
        requirements: Sequence[str] | None = None,
        wait: Wait = "recorded",
        timeout_ms: int = limits.WAIT_MS_DEFAULT,
        **more: Any,  # the other fields of SendRequest
    ) -> Request[SentMessage]:
        """Send a message to an agent (`to`: id or name), or to one capable of the `requirements`.

        Returns it as far as it got within `timeout_ms`: `wait` says what to wait for. Safe to repeat with the
        same `id`; without one it gets one here.

        Raises: UnknownRecipient, AgentMismatch, Rejected, Unavailable.
        """
        body = _message(content, to, requirements, {"id": new_id(), **more})
        return Request(
            method="POST",
            path="/api/messages",
            reply=SentMessage,
            query={"wait": wait, "timeout_ms": timeout_ms},
            body=body,
            patience_ms=0 if wait == "accepted" else timeout_ms,
        )

    @operation("sendBatch")
    def send_batch(self, messages: Iterable[Mapping[str, Any]]) -> Request[BatchReply]:
        """Send up to 1,000 messages (fields of SendRequest); `results` has the id or the error of each.

        Raises: Rejected for the batch as a whole, Unavailable.
        """
        body = [{"id": new_id(), **message} for message in messages]
        return Request(method="POST", path="/api/messages/batch", reply=BatchReply, body=body)

    @operation("showMessage")
    def show(self, message_id: str) -> Request[SentMessage]:
        """Return a message. Raises: NotFound."""
        return Request(method="GET", path=f"/api/messages/{path_of(message_id)}", reply=SentMessage)

    @listing("listMessages")
    def list(
        self,
        *,
        to: str | None = None,
        sender: str | None = None,
        conversation_id: str | None = None,
        status: str | None = None,
        message_type: str | None = None,
    ) -> Listing[SentMessage]:
        """Yield every message that matches, by priority and age, page after page."""
        query = {
            "to_agent_id": to,
            "from_agent_id": sender,
            "conversation_id": conversation_id,
            "status": status,
            "message_type": message_type,
        }
        return Listing(first=Request(method="GET", path="/api/messages", reply=_Rows, query=query))

    __call__ = list

    @operation("listAttempts")
    def attempts(self, message_id: str) -> Request[_Attempts]:
        """Return the attempts to deliver a message. Raises: NotFound."""
        return Request(method="GET", path=f"/api/messages/{path_of(message_id)}/attempts", reply=_Attempts)

    @operation("showRoute")
    def route(self, message_id: str) -> Request[Json]:
        """Return why a message went to its agent. Raises: NotFound."""
        return Request(method="GET", path=f"/api/messages/{path_of(message_id)}/route", reply=Json)

    @operation("explainRoute")
    def explain(
        self,
        /,
        content: Mapping[str, Any] | None = None,  # an agent's own JSON
        *,
        to: str | None = None,
        requirements: Sequence[str] | None = None,
        sender: str | None = None,
        **more: Any,  # the other fields of SendRequest
    ) -> Request[ExplainReply]:
        """Return where a message would go, and why; nothing is sent. Raises: Rejected."""
        body = _message(content or {}, to, requirements, more)
        query = {"from_agent_id": sender}
        return Request(method="POST", path="/api/route/explain", reply=ExplainReply, query=query, body=body)

    @operation("changeStatus")
    def processed(self, message_id: str, result: Any = None) -> Request[SentMessage]:  # any JSON
        """Say that a message is done, with its result. Raises: NotFound, AgentMismatch, IllegalTransition."""
        return _change(message_id, {"status": "processed", "result": result})

    @operation("changeStatus")
    def failed(self, message_id: str, reason: str) -> Request[SentMessage]:
        """Say that a message could not be dealt with. Raises: as `processed`."""
        return _change(message_id, {"status": "failed", "reason": reason})

    @operation("changeStatus")
    def declined(self, message_id: str) -> Request[SentMessage]:
        """Say that one will not do a message: it goes on to another agent, where it was routed by capability.
        Raises: as `processed`."""
        return _change(message_id, {"status": "declined"})

    @operation("changeStatus")
    def cancel(self, message_id: str, reason: str | None = None) -> Request[SentMessage]:
        """Take back a message of one's own that is pending. Raises: as `processed`."""
        return _change(message_id, {"status": "cancelled", "reason": reason})


def _message(
    content: Mapping[str, Any],  # an agent's own JSON
    to: str | None,
    requirements: Sequence[str] | None,
    more: Mapping[str, Any],  # fields of SendRequest, times among them
) -> Json:
    named = given(to_agent_id=to, requirements=None if requirements is None else tuple(requirements))
    return {"content": content, **named, **more}


def _change(message_id: str, change: Json) -> Request[SentMessage]:
    path = f"/api/messages/{path_of(message_id)}/status"
    return Request(method="PUT", path=path, reply=SentMessage, body=change)
