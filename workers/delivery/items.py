"""What the delivery owner of a shard holds in memory: items (messages to push) and mailboxes.

Invariants, which make posting from memory safe beside reading back:
- every entry of a mailbox up to `cursor` is in memory, waiting for its retry, or settled;
- `behind` is true while entries may lie beyond `cursor`; nothing is taken straight from routing then, it is
  read back instead, in order;
- all commands of a shard go over one connection, so replies come in the order Redis executed them: a read
  that was executed before a settle is also seen before it.
"""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from msgspec import UNSET, Struct

from schema.codec import NO_OPTIONS, options_of
from schema.message import DeliveryOptions, Envelope, Lane
from schema.times import to_ms

if TYPE_CHECKING:
    from workers.delivery.endpoint import Endpoint

_NO_METADATA: Final = b"{}"


class Item(Struct, eq=False):
    """One message on its way to an endpoint: what pushing and settling it need, and no more. See `item_of`.

    `attempts`: used so far in this round; `attempts_before` of them by agents chosen before. `announced`:
    whether a ledger event with the whole message has been written. `due_taken`: whether it came from the due
    set, where it is marked as under way. `direct`: it lies among the direct messages of its shard, by the
    name `entry`, and in no mailbox. `shelving`: what follows when it lies in its mailbox; None: it is not on
    its way there. `shelved`: it was put there while it was in memory.
    """

    mailbox: "Mailbox"
    entry: str
    id: str
    body: bytes
    waiter: str
    root_id: str
    round: int
    created_ms: int
    expires_ms: int | None
    requirements: list[str]
    options: DeliveryOptions
    sender: str | None
    conversation_id: str | None
    hop: int
    announced: bool = False
    route: bytes | None = None
    held_ms: int = 0
    attempts: int = 0
    due_taken: bool = False
    started_ms: int = 0
    attempts_before: int = 0
    direct: bool = False
    shelving: list[Callable[[], None]] | None = None
    shelved: bool = False

    @property
    def due_member(self) -> str:
        """Its member of the due set: mailbox, entry, attempts used."""
        return f"{self.mailbox.key}|{self.entry}|{self.attempts}"

    @property
    def place(self) -> str:
        """Its member of the expiry set, and its name among what waits for a retry."""
        return f"{self.mailbox.key}|{self.entry}"


def item_of(
    mailbox: "Mailbox",
    entry: str,
    envelope: Envelope,
    body: bytes,
    waiter: str,
    announced: bool = False,
    route: bytes | None = None,
    held_ms: int = 0,
) -> Item:
    """Return the item of an entry: of the envelope only what is asked for again, or memory would hold every
    waiting message twice."""
    created_at, expires_at, requirements = envelope.created_at, envelope.expires_at, envelope.requirements
    message_round, metadata = envelope.round, envelope.metadata
    item = Item(
        mailbox,
        entry,
        envelope.id,
        body,
        waiter,
        envelope.root_id or envelope.id,
        message_round if type(message_round) is int else 0,
        0 if created_at is None else to_ms(created_at),
        None if expires_at is None else to_ms(expires_at),
        requirements if type(requirements) is list else [],
        NO_OPTIONS if len(metadata) <= len(_NO_METADATA) else options_of(envelope),
        envelope.from_agent_id,
        envelope.conversation_id,
        envelope.hop,
        announced,
        route,
        held_ms,
    )
    if envelope.tried is not UNSET and envelope.tried:
        item.attempts = item.attempts_before = envelope.tried[-1].attempts
    return item


def unreadable(mailbox: "Mailbox", entry: str, raw: bytes) -> Item:
    """Return what stands for an entry that is no message until it is set aside."""
    return Item(mailbox, entry, entry, raw, "", entry, 0, 0, None, [], NO_OPTIONS, None, None, 0)


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
        "is_used",
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
        self.is_used = False
        """Whether anything of it may be in Redis: what is handed over directly never was in a mailbox."""
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
