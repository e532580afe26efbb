"""Statistics: the sums the database keeps of what changes in messages, and how they are folded.

Triggers note every change of a message in the statement that makes it (migration 5); `fold` brings the notes
into the sums; `read` adds sums and notes in one snapshot, so it is exact whether or not anybody has folded.

Invariant: for every agent and for the deployment, `read` says what counting the rows would say, plus what was
counted of rows that retention has dropped since.
"""

from datetime import UTC, date, datetime
from typing import Final
from uuid import UUID

import msgspec
from msgspec import Struct

from broker.store.pool import Pool
from broker.store.statements import load
from schema.limits import STATISTICS_UNFOLDED_READ_MAX, STATISTICS_WORDS_MAX

_LOCK: Final = load("statistics_lock")
_FOLD: Final = load("statistics_fold")
_READ: Final = load("statistics_read")
_ORDERS: Final = load("statistics_orders")
_ORDERS_OF_AGENT: Final = load("statistics_orders_of_agent")
_FORGET_MINUTES: Final = load("statistics_forget_minutes")
_MERGE_TOTALS: Final = load("statistics_merge_totals")
_MERGE_TIMES: Final = load("statistics_merge_times")
_MOVE_DELIVERIES: Final = load("statistics_move_deliveries")

DEPLOYMENT: Final = str(UUID(int=0))
"""What the sums of the whole deployment are kept under."""
EVER: Final = date.min
BATCH_ROWS: Final = 5_000
"""Sums forgotten or merged in one statement: it holds their locks for a tenth of a second."""


class Total(Struct, array_like=True, frozen=True):
    """Messages of one kind. `side`: `all`, `received` or `sent`. `reason`: empty unless failed or expired."""

    side: str
    status: str
    message_type: str
    reason: str
    messages: int


class Deliveries(Struct, array_like=True, frozen=True):
    """Delivery times within one bucket (`bucket_ms`), and their sum."""

    side: str
    bucket: int
    messages: int
    total_ms: int


class Minute(Struct, array_like=True, frozen=True):
    """What happened in one minute, which begins at `at_s`."""

    side: str
    at_s: int
    accepted: int
    delivered: int
    processed: int


class Counted(Struct, frozen=True):
    """What was counted. `first_day`: the earliest day anything was counted for; None: nothing ever was.

    `complete` is False when so much is not folded that only part of it was added: nobody folds.
    """

    totals: list[Total]
    deliveries: list[Deliveries]
    minutes: list[Minute]
    first_day: date | None
    complete: bool


class OrdersByRole(Struct, frozen=True):
    """Work orders by status, as the one who does the work and as the one who asked for it."""

    worker: dict[str, int]
    requester: dict[str, int]


class Folded(Struct, frozen=True):
    """What one fold took: notes, and the messages in them."""

    deltas: int
    messages: int


_totals: Final = msgspec.json.Decoder(list[Total])
_deliveries: Final = msgspec.json.Decoder(list[Deliveries])
_minutes: Final = msgspec.json.Decoder(list[Minute])


def bucket_ms(bucket: int) -> float:
    """Return where a bucket of delivery times begins; the next one begins 12 % higher."""
    begins: float = 2.0 ** (bucket / 6)
    return begins


async def read(pool: Pool, agent_id: str, *, since: date = EVER, minutes_since_ms: int) -> Counted:
    """Return what is counted for an agent, or for the `DEPLOYMENT`, of messages created since a day.

    Raises: StoreUnavailable.
    """
    row = await pool.fetch_row(
        _READ,
        STATISTICS_WORDS_MAX,
        _moment(minutes_since_ms),
        agent_id,
        since,
        STATISTICS_UNFOLDED_READ_MAX,
    )
    assert row is not None
    return Counted(
        totals=_totals.decode(row["totals"]),
        deliveries=_deliveries.decode(row["deliveries"]),
        minutes=_minutes.decode(row["minutes"]),
        first_day=row["first_day"],
        complete=row["complete"],
    )


async def orders(pool: Pool) -> dict[str, int]:
    """Return the deployment's work orders by status. Raises: StoreUnavailable."""
    return {row["status"]: row["orders"] for row in await pool.fetch(_ORDERS)}


async def orders_of_agent(pool: Pool, agent_id: str) -> OrdersByRole:
    """Return an agent's work orders. Raises: StoreUnavailable."""
    found = OrdersByRole({}, {})
    for row in await pool.fetch(_ORDERS_OF_AGENT, agent_id):
        (found.worker if row["role"] == "worker" else found.requester)[row["status"]] = row["orders"]
    return found


async def fold(pool: Pool, *, messages: int, minutes_since_ms: int) -> Folded | None:
    """Fold notes of about so many messages into the sums; None when somebody else is folding.

    Raises: StoreUnavailable.
    """
    async with pool.transaction() as connection:
        if not await connection.fetchval(_LOCK):
            return None
        row = await connection.fetchrow(_FOLD, STATISTICS_WORDS_MAX, _moment(minutes_since_ms), messages)
    assert row is not None
    return Folded(row["deltas"], row["messages"])


async def forget_minutes(pool: Pool, before_ms: int) -> int:
    """Delete minutes before a time, a batch of them; return how many. Raises: StoreUnavailable."""
    return await _in_turn(pool, _FORGET_MINUTES, _moment(before_ms))


async def merge_days(pool: Pool, before: date) -> int:
    """Merge a batch of sums of days before this one whose messages have been dropped into the first day;
    return how many. Raises: StoreUnavailable."""
    merged = await _in_turn(pool, _MERGE_TIMES, before)
    return merged + await _in_turn(pool, _MERGE_TOTALS, before)


async def move_deliveries(pool: Pool) -> int:
    """Move a batch of the delivery times that an earlier release wrote to where they are kept since migration
    14; return how many. Raises: StoreUnavailable."""
    return await _in_turn(pool, _MOVE_DELIVERIES)


async def _in_turn(pool: Pool, statement: str, *before: date) -> int:
    """Run a statement on a batch of sums unless somebody else is at them."""
    async with pool.transaction() as connection:
        if not await connection.fetchval(_LOCK):
            return 0
        done: int = await connection.fetchval(statement, *before, BATCH_ROWS)
    return done


def _moment(at_ms: int) -> datetime:
    return datetime.fromtimestamp(at_ms / 1000, UTC)
