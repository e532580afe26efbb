"""The route call: one script call that moves a batch of messages from the ingress to where they belong."""

from collections.abc import Callable
from typing import Final

from msgspec import Struct, field

from broker.streams.connection import Argument, Connection, Reply
from broker.streams.keys import Keys
from broker.streams.scripts import ROUTE
from schema.errors import BrokerError
from schema.message import LANES, Lane

LANE_NUMBER: Final = {lane: str(number) for number, lane in enumerate(LANES)}
NOWHERE: Final = "-"
"""In place of an entry id: the message lies in no stream."""
DUPLICATE: Final = "="
"""In place of an entry id: it was seen before, and nothing has happened to it."""


class RouteBatch(Struct):
    """What one call moves, and what else changes with it. `add` and `hand_over` are a move each.

    `keys`: what makes a second publish a duplicate, empty for none, a value each a move. `targets`: the
    streams of those that go into one; `messages`: these; `message_numbers`: which moves they are. `handed`:
    name and message of those handed over directly, flat, to `recipient`; `handed_numbers`: which moves. The
    rest is for those few moves that have it, by their numbers from 1 on: `waiters` (number, gateway),
    `expiries` (number, server ms), `later` (number, member, due in server ms, message), flat each. `events`
    are ledger events, `about` the moves they tell of.

    `activate`: targets to put on the active set. `parked`: requirements by signature. `forget`: choices that
    have arrived. `done`: ingress entries that are finished with these moves. `ring`: mailboxes a delivery
    owner in another process should look at. `pulling`: recipients without an endpoint; not part of the call.
    """

    keys: list[bytes] = field(default_factory=list)
    targets: list[str] = field(default_factory=list)
    messages: list[bytes] = field(default_factory=list)
    message_numbers: list[int] = field(default_factory=list)
    handed: list[Argument] = field(default_factory=list)
    handed_numbers: list[int] = field(default_factory=list)
    recipient: str = ""
    waiters: list[Argument] = field(default_factory=list)
    expiries: list[Argument] = field(default_factory=list)
    later: list[Argument] = field(default_factory=list)
    events: list[bytes] = field(default_factory=list)
    about: list[int] = field(default_factory=list)
    activate: set[str] = field(default_factory=set)
    parked: dict[str, bytes] = field(default_factory=dict)
    forget: list[str] = field(default_factory=list)
    done: dict[Lane, list[str]] = field(default_factory=lambda: {lane: [] for lane in LANES})
    ring: dict[str, None] = field(default_factory=dict)
    pulling: set[str] = field(default_factory=set)

    def add(self, key: bytes, target: str = "", message: bytes = b"") -> None:
        """Add a move into a stream; without one, its way ends here and only what `tell` adds stays."""
        self.keys.append(key)
        if target:
            self.targets.append(target)
            self.messages.append(message)
            self.message_numbers.append(len(self.keys))

    def hand_over(self, key: bytes, name: str, message: bytes) -> None:
        """Add a message that the delivery owner in this process, `recipient`, gets directly, by a name that
        is never used twice."""
        self.keys.append(key)
        self.handed_numbers.append(len(self.keys))
        self.handed += (name, message)

    # Each of the following is about the move added last.

    def tell(self, event: bytes) -> None:
        self.events.append(event)
        self.about.append(len(self.keys))

    def wait(self, waiter: str) -> None:
        self.waiters += (len(self.keys), waiter)

    def expire(self, at_ms: int) -> None:
        self.expiries += (len(self.keys), at_ms)

    def schedule(self, member: str, due_ms: int, message: bytes) -> None:
        self.later += (len(self.keys), member, due_ms, message)


def call_route(
    connection: Connection,
    keys: Keys,
    batch: RouteBatch,
    *,
    owner: str,
    window_ms: int,
    now_ms: int,
    on_reply: Callable[[list[str] | BrokerError], None],
) -> None:
    """Send the batch. The reply has, per move, the entry id in its target, NOWHERE or DUPLICATE; or it is a
    BrokerError (Fenced, also where `recipient` is no more: nothing has changed; StreamsFull: nothing either).
    """
    window = now_ms // window_ms
    count, handed = len(batch.keys), len(batch.handed_numbers)
    script_keys: list[Argument] = [
        keys.owner("route"), keys.seen(window), keys.seen(window - 1), keys.active, keys.ledger,
        keys.doorbell, keys.expiry, keys.parked, keys.chosen, keys.later, keys.later_messages,
        keys.direct, keys.direct_to, *keys.ingress.values(),
    ]  # fmt: skip
    script_keys += batch.targets
    script_keys += batch.activate
    events = batch.events
    about = [] if len(events) == count else batch.about
    arguments: list[Argument] = [
        owner, 2 * window_ms, now_ms, " ".join(batch.ring),
        count, batch.keys.count(b""),
        b"[" + b",".join(events) + b"]" if events else b"",
        " ".join([str(len(event)) for event in events]), len(about),
        len(batch.waiters) // 2, len(batch.expiries) // 2, len(batch.later) // 4,
        len(batch.activate), len(batch.parked), len(batch.forget),
        *(len(entries) for entries in batch.done.values()),
        batch.recipient, handed, len(batch.targets),
    ]  # fmt: skip
    arguments += batch.keys
    if handed < count:
        arguments += batch.handed_numbers
    arguments += batch.handed
    if len(batch.targets) < count:
        arguments += batch.message_numbers
    arguments += batch.messages
    arguments += about
    arguments += batch.waiters
    arguments += batch.expiries
    arguments += batch.later
    for signature, requirements in batch.parked.items():
        arguments += (signature, requirements)
    arguments += batch.forget
    for entries in batch.done.values():
        arguments += entries

    def answered(reply: Reply) -> None:
        if isinstance(reply, BrokerError):
            on_reply(reply)
        else:
            on_reply(reply.decode().split(" ") if reply else [NOWHERE] * count)

    connection.run(ROUTE, script_keys, arguments, answered)
