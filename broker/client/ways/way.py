"""What a way in is to an agent, and what it is given to work with."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from msgspec import Struct

from broker.client.desk import Desk
from broker.client.http import AgentClient
from broker.client.incoming import Arrival
from broker.client.outcomes import Outcome
from schema.presence import PresenceChange

OnPresence = Callable[[PresenceChange], Awaitable[object]]


class Place(Struct, kw_only=True, frozen=True):
    """Where a way in works. `tell`: what a desk does with an outcome; it ends in the way's `acknowledge`.
    `on_presence`: whom to tell of agents that come and go, if anybody wants to know."""

    url: str
    key: str
    agent_id: str
    client: AgentClient
    desk: Desk
    tell: Callable[[Arrival, Outcome], Awaitable[None]]
    concurrency: int
    on_presence: OnPresence | None = None


class Way(Protocol):
    """One way in."""

    keeps_presence: bool
    """Whether the agent is seen online by this alone; if not, heartbeats are sent beside it."""

    async def run(self, place: Place) -> None:
        """Bring messages to the desk until cancelled (or the desk is closed), over whatever failures of the
        connection.

        Raises: Rejected where the broker will not have us.
        """

    async def acknowledge(self, place: Place, arrival: Arrival, outcome: Outcome) -> None:
        """Tell the broker. Raises: Unavailable: the message comes again, and is acknowledged then."""
