"""Rows of the contract: inboxes."""

from typing import Final

from broker.gateway.call import Scope
from broker.gateway.coordination import inbox
from broker.gateway.operation import Operation
from schema.errors import AgentMismatch, IllegalTransition, NotFound, Rejected, StoreUnavailable
from schema.inbox import InboxReply, MarkReadReply

INBOX: Final = (
    Operation(
        name="showInbox",
        method="GET",
        path="/api/v1/messaging/inbox",
        summary="Show an agent's inbox",
        tag="Inbox",
        scope=Scope.MESSAGES_READ,
        query=inbox.InboxQuery,
        check_query=inbox.check_inbox,
        replies={200: InboxReply},
        errors=(Rejected, AgentMismatch, NotFound, StoreUnavailable),
        handler=inbox.show,
    ),
    Operation(
        name="markRead",
        method="POST",
        path="/api/v1/messaging/mark-read/{message_id}",
        summary="Say that a message was read",
        tag="Inbox",
        scope=Scope.MESSAGES_UPDATE,
        query=inbox.AgentQuery,
        replies={200: MarkReadReply},
        errors=(Rejected, AgentMismatch, NotFound, IllegalTransition, StoreUnavailable),
        handler=inbox.mark_read,
    ),
)
