"""The outbox: messages that begin in a transaction, on their way to the streams.

A row is added by the transaction whose doing the message tells of, so there is one exactly if that happened.
Whoever committed publishes right away and removes the row; what is left over (the process died, Redis was
away) the keeper takes over. The row's id is the message's id, so the same message published twice is routed
once, while the streams remember ids: for their deduplication window.

A row must therefore not be published again long after it may have been published before. `added_at` is the
earliest moment that can have been. A row younger than half the window is simply published again; of an older
one it is first looked up whether its message has been recorded: then it was published and only the removal
is missing. What remains is a message that was published more than half a window ago, not removed, *and* not
recorded since: Postgres stopped right then and came back before the recorder did. It is sent again, under
the same id, as the promise of at-least-once has it.

Claims are a moment in the row, not a lock held while Redis is talked to: two keepers never take the same row
at once (SKIP LOCKED), and a keeper that dies with claimed rows delays them only.
"""

from collections.abc import Iterable, Sequence
from typing import Final
from uuid import UUID, uuid5

from msgspec import Struct

from broker.store.pool import Connection, Pool
from broker.store.statements import load
from broker.store.window import EVER, made_within
from schema.codec import decode_stored_envelope, encode
from schema.message import Envelope

GRACE_MS: Final = 2_000
"""Time for whoever has just committed to publish by itself."""

_ADD: Final = load("outbox_add")
_CLAIM: Final = load("outbox_claim")
_REMOVE: Final = load("outbox_remove")
_RECORDED: Final = load("outbox_recorded")
_DEPTH: Final = load("outbox_depth")


class Waiting(Struct, frozen=True):
    """A message in the outbox. `row`: by which it is removed."""

    row: str
    envelope: Envelope
    age_ms: int


async def add(connection: Connection, *envelopes: Envelope, grace_ms: int = GRACE_MS) -> None:
    """Put messages into the outbox, in the transaction that is open on this connection. `grace_ms`: 0 where
    nobody but the keeper is going to publish them."""
    if envelopes:
        ids = [row_of(envelope) for envelope in envelopes]
        await connection.execute(_ADD, ids, [encode(envelope) for envelope in envelopes], grace_ms)


async def claim(pool: Pool, limit: int, *, for_ms: int) -> list[Waiting]:
    """Return messages nobody has published yet, or said so; nobody else gets them for this long.

    Raises: StoreUnavailable.
    """
    rows = await pool.fetch(_CLAIM, limit, for_ms)
    return [Waiting(str(row["id"]), decode_stored_envelope(row["envelope"]), row["age_ms"]) for row in rows]


def row_of(envelope: Envelope) -> str:
    """Return the row of a message: its id; of one that is replayed a row for each round, so that who removes
    what it has published removes no later round."""
    if not isinstance(envelope.round, int) or envelope.round == 0:
        return envelope.id
    return str(uuid5(UUID(envelope.id), f"round:{envelope.round}"))


async def remove(pool: Pool, rows: Iterable[str]) -> None:
    """Forget messages that have been published, by their rows. Raises: StoreUnavailable."""
    await pool.execute(_REMOVE, list(rows))


async def recorded(pool: Pool, envelopes: Sequence[Envelope]) -> set[str]:
    """Return the ids of those of these messages that are recorded in their round, and so have been published.

    Raises: StoreUnavailable.
    """
    left = {envelope.id: envelope for envelope in envelopes}
    found: set[str] = set()
    for window in (made_within(left), EVER):
        if not left:
            break
        rounds = [one.round if isinstance(one.round, int) else 0 for one in left.values()]
        ids = {str(row["id"]) for row in await pool.fetch(_RECORDED, list(left), rounds, *window)}
        found |= ids
        left = {message_id: one for message_id, one in left.items() if message_id not in ids}
    return found


async def depth(pool: Pool) -> tuple[int, float]:
    """Return how many messages wait, and the age of the oldest in seconds. Raises: StoreUnavailable."""
    row = await pool.fetch_row(_DEPTH)
    return (0, 0.0) if row is None else (row["waiting"], row["age_s"])
