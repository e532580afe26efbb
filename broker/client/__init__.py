"""The SDK agents import: `from broker.client import Agent`.

Unlike other packages of this house this one has names of its own: for those who write agents it is the whole
product, and they should not have to know how it is cut into files. Each is imported when it is first asked
for, so that a script with the synchronous client loads neither Redis nor a web server.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from broker.client.agent import Agent
    from broker.client.asking import NoAnswer
    from broker.client.credentials import Credentials
    from broker.client.http import AgentClient
    from broker.client.incoming import Message
    from broker.client.native import NativeInbox
    from broker.client.orders import Order
    from broker.client.outcomes import Retry
    from broker.client.plain import Client
    from broker.client.streams import StreamPublisher
    from broker.client.webhooks import WebhookApp
    from schema.errors import (
        AgentMismatch,
        BrokerError,
        Conflict,
        Forbidden,
        NotFound,
        RateLimited,
        Rejected,
        Unauthenticated,
        Unavailable,
    )

__all__ = [
    "Agent",
    "AgentClient",
    "AgentMismatch",
    "BrokerError",
    "Client",
    "Conflict",
    "Credentials",
    "Forbidden",
    "Message",
    "NativeInbox",
    "NoAnswer",
    "NotFound",
    "Order",
    "RateLimited",
    "Rejected",
    "Retry",
    "StreamPublisher",
    "Unauthenticated",
    "Unavailable",
    "WebhookApp",
]

_HOMES: Final = {
    "Agent": "broker.client.agent",
    "AgentClient": "broker.client.http",
    "Client": "broker.client.plain",
    "Credentials": "broker.client.credentials",
    "Message": "broker.client.incoming",
    "NativeInbox": "broker.client.native",
    "NoAnswer": "broker.client.asking",
    "Order": "broker.client.orders",
    "Retry": "broker.client.outcomes",
    "StreamPublisher": "broker.client.streams",
    "WebhookApp": "broker.client.webhooks",
}


def __getattr__(name: str) -> Any:  # whichever of the names above
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "schema.errors")), name)
