"""The settle call: one script call that finishes a batch of attempts."""

from collections.abc import Callable

from msgspec import Struct, field

from broker.streams.connection import Argument, Connection, Reply
from broker.streams.keys import Keys
from broker.streams.scripts import SETTLE


class Settlement(Struct):
    """What one call changes. `direct`: fields of direct messages to delete. `finished`: entries to delete, by
    mailbox. `events`: for the ledger, encoded.
    `retries`: due member -> due ms. `over`: due members that are no longer needed. `forget`: members of the
    expiry set."""

    direct: list[str] = field(default_factory=list)
    finished: dict[str, list[str]] = field(default_factory=dict)
    events: list[bytes] = field(default_factory=list)
    retries: dict[str, int] = field(default_factory=dict)
    over: list[str] = field(default_factory=list)
    forget: list[str] = field(default_factory=list)

    @property
    def is_empty(self) -> bool:
        return not (self.direct or self.finished or self.events or self.retries or self.over or self.forget)


def call_settle(
    connection: Connection,
    keys: Keys,
    settlement: Settlement,
    *,
    owner: str,
    on_reply: Callable[[Reply], None],
) -> None:
    """Send the settlement. The reply is the number of messages deleted, or a BrokerError (Fenced: nothing has
    changed)."""
    script_keys: list[Argument] = [
        keys.owner("deliver"), keys.ledger, keys.due, keys.expiry, keys.direct, *settlement.finished,
    ]  # fmt: skip
    arguments: list[Argument] = [
        owner,
        b"[%b]" % b",".join(settlement.events) if settlement.events else b"",
        len(settlement.retries),
        len(settlement.over),
        len(settlement.forget),
        len(settlement.direct),
    ]
    arguments += settlement.direct
    for member, due_ms in settlement.retries.items():
        arguments += (due_ms, member)
    arguments += settlement.over
    arguments += settlement.forget
    for entries in settlement.finished.values():
        arguments.append(len(entries))
        arguments += entries
    connection.run(SETTLE, script_keys, arguments, on_reply)
