"""Messages on record: show, list, attempts, route. (How one is sent is in `publishing`.)"""

from typing import Final

from msgspec import Raw, Struct

from broker.gateway.access import require_visible
from broker.gateway.call import Call, NoQuery, Reply
from broker.gateway.paging import LIMIT_DEFAULT, page_headers
from broker.gateway.reading import Faults
from broker.store import attempts as stored_attempts
from broker.store import messages as stored_messages
from broker.store.messages import MessageFilter
from schema import limits
from schema.errors import AgentMismatch
from schema.http import RouteView
from schema.ids import is_id
from schema.message import MessageView, Status

_STATUSES: Final = tuple(status.value for status in Status)
_LIST_FIELDS: Final = ("to_agent_id", "from_agent_id", "conversation_id", "status", "message_type")


class ListMessages(Struct):
    """Query of `GET /api/messages`."""

    to_agent_id: str | None = None
    from_agent_id: str | None = None
    conversation_id: str | None = None
    status: str | None = None
    message_type: str | None = None
    limit: int = LIMIT_DEFAULT
    cursor: str | None = None


def check_list(query: ListMessages, faults: Faults) -> None:
    """Note everything wrong with the query of a list of messages."""
    if query.status is not None and query.status not in _STATUSES:
        faults.add("status", f"must be one of {', '.join(_STATUSES)}")
    if query.limit < 1:
        faults.add("limit", f"must be 1 to {limits.PAGE_ROWS_MAX}")


async def show(call: Call[None, NoQuery]) -> Reply:
    """Show a message, to its sender, its recipient or an operator."""
    return Reply(body=await _visible(call))


async def list_(call: Call[None, ListMessages]) -> Reply:
    """List messages, ordered by priority and age. An agent's own key sees what it sent or got; without
    `from_agent_id` and `to_agent_id` that means what it got, and of a conversation both."""
    services, query = call.services, call.query
    sender = await services.agents.named_if_given(query.from_agent_id)
    recipient = await services.agents.named_if_given(query.to_agent_id)
    own, party = call.principal.agent_id, None
    if own is not None and own not in (sender, recipient):
        if (sender, recipient) != (None, None):
            raise AgentMismatch("this key belongs to another agent")
        if query.conversation_id is None:
            recipient = own
        else:
            party = own
    page = await stored_messages.list_page(
        services.pool,
        MessageFilter(
            to_agent_id=recipient,
            from_agent_id=sender,
            conversation_id=query.conversation_id,
            party=party,
            status=None if query.status is None else Status(query.status),
            message_type=query.message_type,
            limit=min(query.limit, limits.PAGE_ROWS_MAX),
            cursor=query.cursor,
        ),
    )
    given = [(name, value) for name in _LIST_FIELDS if (value := getattr(query, name)) is not None]
    headers = page_headers("/api/messages", [*given, ("limit", str(query.limit))], page.cursor)
    return Reply(body=page.items, headers=headers)


async def attempts(call: Call[None, NoQuery]) -> Reply:
    """List every attempt to deliver a message, in order."""
    message = await _visible(call)
    return Reply(body=await stored_attempts.of_message(call.services.pool, message.id))


async def route(call: Call[None, NoQuery]) -> Reply:
    """Show why a message went to its agent: the candidates, what dropped each, the scores. `route` is null
    when its sender named the recipient."""
    message = await _visible(call)
    explained = await stored_messages.route_of(call.services.pool, message.id)
    return Reply(
        body=RouteView(
            message_id=message.id,
            to_agent_id=message.to_agent_id,
            status=message.status,
            status_reason=message.status_reason,
            route=Raw(explained if explained is not None else b"null"),
        )
    )


async def _visible(call: Call[None, NoQuery]) -> MessageView:
    message_id = call.path["message_id"].lower()
    row = await stored_messages.get(call.services.pool, message_id) if is_id(message_id) else None
    return require_visible(call.principal, row)
