"""What the delivery owner of a shard holds in memory: items (messages to push) and mailboxes.

Invariants, which make posting from memory safe beside reading back:
- every entry of a mailbox up to `cursor` is in memory, waiting for its retry, or settled;
- `behind` is true while entries may lie beyond `cursor`; nothing is taken straight from routing then, it is
  read back instead, in order;
- all commands of a shard go over one connection, so replies come in the order Redis executed them: a read
  that was executed before a settle is also seen before it.
"""

from collections import deque
from typing import TYPE_CHECKING

from schema.codec import NO_OPTIONS, options_of
from schema.message import DeliveryOptions, Envelope, Lane
from schema.times import to_ms

if TYPE_CHECKING:
    from workers.delivery.endpoint import Endpoint


class Item:
    """One message on its way to an endpoint: what pushing and settling it need, and no more."""

    __slots__ = (
        "announced",
        "attempts",
        "body",
        "conversation_id",
        "created_ms",
        "due_taken",
        "entry",
        "expires_ms",
        "held_ms",
        "hop",
        "id",
        "in_flight",
        "mailbox",
        "options",
        "requirements",
        "root_id",
        "round",
        "route",
        "sender",
        "started_ms",
        "waiter",
    )

    def __init__(self, mailbox: "Mailbox", entry: str, envelope: Envelope, body: bytes, waiter: str) -> None:
        self.mailbox = mailbox
        self.entry = entry
        self.id = envelope.id
        self.body = body
        self.waiter = waiter
        self.root_id = envelope.root_id or envelope.id
        self.round: int = envelope.round if isinstance(envelope.round, int) else 0
        self.created_ms = to_ms(envelope.created_at) if envelope.created_at is not None else 0
        self.expires_ms = to_ms(envelope.expires_at) if envelope.expires_at is not None else None
        requirements = envelope.requirements
        self.requirements: list[str] = requirements if isinstance(requirements, list) else []
        self.options: DeliveryOptions = (
            options_of(envelope) if len(bytes(envelope.metadata)) > 2 else NO_OPTIONS
        )
        self.attempts = 0
        """Attempts used so far in this round."""
        self.announced = False
        """Whether a ledger event with the whole message has been written."""
        self.route: bytes | None = None
        self.due_taken = False
        """Whether it came from the due set, where it is marked as under way."""
        self.in_flight = False
        self.started_ms = 0
        self.held_ms = 0
        self.sender = envelope.from_agent_id
        self.conversation_id = envelope.conversation_id
        self.hop = envelope.hop

    @property
    def due_member(self) -> str:
        """Its member of the due set: mailbox, entry, attempts used."""
        return f"{self.mailbox.key}|{self.entry}|{self.attempts}"

    @property
    def place(self) -> str:
        """Its member of the expiry set, and its name among what waits for a retry."""
        return f"{self.mailbox.key}|{self.entry}"


class Mailbox:
    """One lane of one agent, as the delivery owner knows it."""

    __slots__ = (
        "active",
        "again",
        "behind",
        "closed",
        "collecting",
        "coming",
        "cursor",
        "endpoint",
        "held",
        "idle_since_ms",
        "key",
        "lane",
        "queue",
    )

    def __init__(self, endpoint: "Endpoint", key: str, lane: Lane) -> None:
        self.endpoint = endpoint
        self.key = key
        self.lane = lane
        self.queue: deque[Item] = deque()
        self.cursor = "0-0"
        self.behind = False
        self.collecting = False
        self.again = False
        """Whether something came while it was being read: the read may have missed it."""
        self.active = False
        """Whether it is on the active set of Redis (or will be when the calls under way arrive)."""
        self.closed = False
        """Whether its books are closed: what still comes stays in Redis."""
        self.coming = 0
        """Route calls under way that bring something; it stays open for them."""
        self.held = 0
        """Items in memory that are not settled, posted or not, and retries that wait."""
        self.idle_since_ms = 0

    @property
    def is_idle(self) -> bool:
        return not (self.held or self.coming or self.behind or self.collecting)
