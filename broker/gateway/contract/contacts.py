"""Rows of the contract: contacts."""

from typing import Final

from broker.gateway.call import Scope
from broker.gateway.coordination import contacts
from broker.gateway.coordination.pings import SenderQuery
from broker.gateway.coordination.presence import CallerQuery
from broker.gateway.operation import Operation
from schema.contact import (
    ContactAnswer,
    ContactEnded,
    ContactRequest,
    ContactRequestReply,
    ContactsPage,
    ContactView,
)
from schema.errors import (
    AgentMismatch,
    NotAContact,
    NotFound,
    RateLimited,
    RecipientDisabled,
    Rejected,
    StoreUnavailable,
    StreamsFull,
    StreamsUnavailable,
    UnknownRecipient,
)

CONTACTS: Final = (
    Operation(
        name="requestContact",
        method="POST",
        path="/api/v1/messaging/send",
        summary="Ask an agent to become a contact",
        tag="Contacts",
        scope=Scope.MESSAGES_SEND,
        body=ContactRequest,
        check=contacts.check_request,
        query=SenderQuery,
        replies={201: ContactRequestReply},
        errors=(
            *(AgentMismatch, UnknownRecipient, RecipientDisabled, NotAContact, RateLimited),
            *(StreamsUnavailable, StreamsFull, StoreUnavailable),
        ),
        handler=contacts.request,
    ),
    Operation(
        name="listContacts",
        method="GET",
        path="/api/v1/messaging/contacts",
        summary="List contacts and requests",
        tag="Contacts",
        scope=Scope.CONTACTS,
        query=contacts.ListContacts,
        check_query=contacts.check_list,
        replies={200: ContactsPage},
        errors=(AgentMismatch, Rejected, StoreUnavailable),
        handler=contacts.list_,
    ),
    Operation(
        name="respondToContact",
        method="POST",
        path="/api/v1/messaging/contacts/{peer}/respond",
        summary="Accept or decline a contact request",
        tag="Contacts",
        scope=Scope.CONTACTS,
        body=ContactAnswer,
        check=contacts.check_answer,
        query=CallerQuery,
        replies={200: ContactView},
        errors=(AgentMismatch, NotFound, StoreUnavailable),
        handler=contacts.respond,
    ),
    Operation(
        name="endContact",
        method="DELETE",
        path="/api/v1/messaging/contacts/{peer}",
        summary="End a contact",
        tag="Contacts",
        scope=Scope.CONTACTS,
        query=CallerQuery,
        replies={200: ContactEnded},
        errors=(AgentMismatch, NotFound, Rejected, StoreUnavailable),
        handler=contacts.end,
    ),
)
