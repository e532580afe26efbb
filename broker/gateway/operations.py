"""The table of operations: the whole HTTP contract.

Routes, authorisation, limits and OpenAPI are all read from here. To add an operation: write its handler in
the module of its subject, name its types, add a row to the subject's module in `broker.gateway.contract`.
"""

from typing import Final

from broker.gateway.contract.agents import AGENTS
from broker.gateway.contract.contacts import CONTACTS
from broker.gateway.contract.dead_letters import DEAD_LETTERS
from broker.gateway.contract.inbox import INBOX
from broker.gateway.contract.keys import KEYS
from broker.gateway.contract.messages import MESSAGES
from broker.gateway.contract.operators import OPERATORS
from broker.gateway.contract.presence import PRESENCE
from broker.gateway.contract.realtime import REALTIME
from broker.gateway.contract.routing import ROUTING
from broker.gateway.contract.statistics import STATISTICS
from broker.gateway.contract.stops import STOPS
from broker.gateway.contract.work_orders import WORK_ORDERS
from broker.gateway.operation import Operation

OPERATIONS: Final[tuple[Operation, ...]] = (
    *AGENTS,
    *KEYS,
    *MESSAGES,
    *ROUTING,
    *INBOX,
    *REALTIME,
    *PRESENCE,
    *CONTACTS,
    *WORK_ORDERS,
    *STATISTICS,
    *DEAD_LETTERS,
    *STOPS,
    *OPERATORS,
)
