"""The life of a message as a transition table.

Decides which status may follow which, and who may say so. It does not write anything: the store guards its
UPDATE with the same table, the fold compares ranks.

Invariants: a terminal status is never left within a round (a replayed dead letter starts a new round, which
is no transition); a rank never goes down, in whatever order events of a round arrive.
"""

from enum import Enum
from typing import Final

from schema.message import Status


class Party(Enum):
    """Who asks for a transition. A receiver's answer to a push (`"status": "processed"`) is its own word."""

    RECIPIENT = "recipient"
    SENDER = "sender"
    BROKER = "broker"


TRANSITIONS: Final[dict[Status, frozenset[Status]]] = {
    Status.PENDING: frozenset(
        {Status.DELIVERED, Status.PROCESSED, Status.FAILED, Status.EXPIRED, Status.CANCELLED}
    ),
    Status.DELIVERED: frozenset({Status.PROCESSED, Status.FAILED}),
    Status.PROCESSED: frozenset(),
    Status.FAILED: frozenset(),
    Status.EXPIRED: frozenset(),
    Status.CANCELLED: frozenset(),
}

_NOTHING: Final[frozenset[Status]] = frozenset()

# A puller may finish what it was never seen to read, so the recipient may do the same from both.
SETTABLE: Final[dict[Party, dict[Status, frozenset[Status]]]] = {
    Party.RECIPIENT: {
        Status.PENDING: frozenset({Status.PROCESSED, Status.FAILED}),
        Status.DELIVERED: frozenset({Status.PROCESSED, Status.FAILED}),
    },
    Party.SENDER: {Status.PENDING: frozenset({Status.CANCELLED})},
    Party.BROKER: {Status.PENDING: frozenset({Status.DELIVERED, Status.FAILED, Status.EXPIRED})},
}

_RANKS: Final = dict.fromkeys(Status, 2) | {Status.PENDING: 0, Status.DELIVERED: 1}


def may_become(current: Status, wanted: Status) -> bool:
    """Tell whether `wanted` may follow `current`. Repeating a status is no transition: False."""
    return wanted in TRANSITIONS[current]


def may_set(party: Party, current: Status, wanted: Status) -> bool:
    """Tell whether this party may move a message from `current` to `wanted`."""
    return wanted in SETTABLE[party].get(current, _NOTHING)


def is_terminal(status: Status) -> bool:
    """Tell whether nothing follows this status."""
    return not TRANSITIONS[status]


def rank(status: Status) -> int:
    """Return how far along a status is: pending 0, delivered 1, terminal 2. A fold never lowers it."""
    return _RANKS[status]
