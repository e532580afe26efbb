"""Operations: the inbox."""

from collections.abc import Sequence

from broker.client.events import StreamEvent
from broker.client.request import Listing, Request, path_of
from broker.client.subject import ShellT, Subject, listing, operation, stream
from broker.client.values import InboxPage, ReceivedMessage
from schema import limits
from schema.inbox import MarkReadReply
from schema.message import Json

PATH = "/api/v1/messaging/inbox"


class Inbox(Subject[ShellT]):
    """What waits for an agent. `agent_id`: whose, where the key does not say it."""

    @operation("showInbox")
    def page(
        self,
        *,
        agent_id: str | None = None,
        status: str = "pending",
        type: str | None = None,
        limit: int = limits.PAGE_ROWS_DEFAULT,
        cursor: str | None = None,
        wait_ms: int = 0,
    ) -> Request[InboxPage]:
        """Return one page, the most urgent and oldest first. An empty one is held back for `wait_ms`.

        Raises: AgentMismatch, Rejected.
        """
        query: Json = {"agent_id": agent_id, "status": status, "type": type, "limit": limit}
        query |= {"cursor": cursor, "wait_ms": wait_ms}
        return Request(method="GET", path=PATH, reply=InboxPage, query=query, patience_ms=wait_ms)

    @listing("showInbox")
    def list(
        self, *, agent_id: str | None = None, status: str = "pending", type: str | None = None
    ) -> Listing[ReceivedMessage]:
        """Yield every message that matches, the most urgent and oldest first."""
        query = {"agent_id": agent_id, "status": status, "type": type}
        first = Request(method="GET", path=PATH, reply=InboxPage, query=query)
        return Listing(first=first, rows="messages")

    __call__ = list

    @stream("streamMessages")
    def stream(
        self,
        *,
        agent_id: str | None = None,
        last_event_id: str | None = None,
        watch: Sequence[str] = (),
    ) -> Request[StreamEvent]:
        """Yield messages as they arrive, and the presence of the agents in `watch` (`*`: all), to the end of
        the connection. What is not acknowledged comes again in the next one; an `Agent` does all of that.

        Raises: AgentMismatch, HasEndpoint, Unavailable.
        """
        query = {"agent_id": agent_id, "last_event_id": last_event_id, "watch": tuple(watch)}
        return Request(method="GET", path="/api/v1/messaging/stream", reply=StreamEvent, query=query)

    @operation("markRead")
    def mark_read(self, message_id: str, *, agent_id: str | None = None) -> Request[MarkReadReply]:
        """Say that a message was read: it is no longer pending. Raises: NotFound, IllegalTransition."""
        path = f"/api/v1/messaging/mark-read/{path_of(message_id)}"
        return Request(method="POST", path=path, reply=MarkReadReply, query={"agent_id": agent_id})
