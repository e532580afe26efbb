"""Rows of the contract: routing without sending."""

from typing import Final

from broker.gateway import explaining
from broker.gateway.call import Scope
from broker.gateway.operation import Operation
from broker.gateway.sending import check_message
from schema.errors import AgentMismatch, Rejected, StoreUnavailable
from schema.message import SendRequest
from schema.routing import ExplainReply

ROUTING: Final = (
    Operation(
        name="explainRoute",
        method="POST",
        path="/api/route/explain",
        summary="Say where a message would go",
        tag="Messages",
        scope=Scope.MESSAGES_SEND,
        body=SendRequest,
        check=check_message,
        query=explaining.ExplainQuery,
        replies={200: ExplainReply},
        errors=(AgentMismatch, Rejected, StoreUnavailable),
        handler=explaining.explain,
    ),
)
