"""The ledger: what happened, in order, on its way to Postgres.

A ledger entry carries a batch of events (field `b`, a JSON array) and, where the script that wrote it knew
mailbox entries the batch could not, their ids (field `i`, space-separated, one per event, `-` for none).

Invariants: the first event of a message always carries it whole; events are replayed after a crash, so
whoever reads them must not mind seeing one twice; order within a shard is the order things happened.
"""

from datetime import datetime
from enum import Enum

from msgspec import UNSET, Raw, Struct, UnsetType

from schema.delivery import Attempt
from schema.message import Envelope, Status
from schema.quick import quick


@quick
class EventKind(Enum):
    """What happened. ROUTED: in a mailbox (or parked: `to` is None), not finished. SETTLED: the message is
    finished for the conveyor (`status` says how). ATTEMPTED: a try failed, another is due. QUARANTINED: a
    stream entry that is no message."""

    ROUTED = "routed"
    SETTLED = "settled"
    ATTEMPTED = "attempted"
    QUARANTINED = "quarantined"


class Event(Struct, kw_only=True, gc=False, omit_defaults=True):
    """One thing that happened to one message.

    `message`: the canonical envelope, whole, in the first event (may be repeated later). `mailbox_entry` is
    the stream id in the recipient's mailbox. `route`: the explanation of a choice by capability. `waiter`:
    the gateway that waits for this message to be recorded. `round` counts replays of a dead letter: an event
    that carries neither the message nor an attempt must name it, or it counts for round 0.

    The raw fields are UNSET, not None, where there is nothing: msgspec decodes no `Raw | None`.

    Of a quarantined entry: `id` is its stream id, `stream` the key it lay in, `raw` its bytes in base64,
    `detail` what was wrong in words.
    """

    kind: EventKind
    id: str
    at_ms: int
    message: Raw | UnsetType = UNSET
    to: str | None = None
    status: Status = Status.PENDING
    reason: str | None = None
    attempt: Attempt | None = None
    result: Raw | UnsetType = UNSET
    next_attempt_ms: int | None = None
    mailbox_entry: str | None = None
    route: Raw | UnsetType = UNSET
    waiter: str | None = None
    round: int = 0
    raw: str | None = None
    stream: str | None = None
    detail: str | None = None


class WholeEvent(Event, kw_only=True, gc=False, omit_defaults=True):
    """An event as it is recorded: its message decoded with it, which takes two thirds of decoding it apart.
    Where one message cannot be read, no event of the entry can: they are read as `Event` then."""

    message: Envelope | UnsetType = UNSET  # type: ignore[assignment]  # the same, one step further


class Progress(Struct, array_like=True, gc=False):
    """What the record says of a message beyond what its sender gave. `result`: as JSON text."""

    status: str
    to: str | None
    retry_count: int
    delivered_at: datetime | None
    processed_at: datetime | None
    next_attempt_at: datetime | None
    reason: str | None
    result: str | None


class Receipt(Struct, array_like=True, gc=False):
    """What a worker or recorder tells a waiting gateway: message `id` reached `rung`
    (recorded | delivered | processed | ended | replied: a reply to it was recorded, its id is in `by`).

    `progress`: what stands in the record, exactly, at the moment it was recorded; None: to be read there."""

    id: str
    rung: str
    by: str | None = None
    progress: Progress | None = None
