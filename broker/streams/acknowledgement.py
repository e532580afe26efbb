"""Acknowledging what an agent pulled: its entries leave the mailbox, and the ledger says how they ended.

Needs no Postgres. An entry that is gone was acknowledged before, in this or another way (or expired, or was
taken back): that is told, not raised, and changes nothing.
"""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from msgspec import UNSET, Raw, Struct, UnsetType

from broker.streams import notifications
from broker.streams.connection import Argument, Connection
from broker.streams.keys import NATIVE_GROUP, Keys
from broker.streams.link import Link
from broker.streams.scripts import ACKNOWLEDGE
from schema.codec import encode
from schema.errors import Unavailable
from schema.ids import shard_of
from schema.ledger import Event, EventKind, Receipt
from schema.limits import SETTLE_BATCH_MAX
from schema.message import Lane, Status

RUNGS: Final = {Status.DELIVERED: "delivered", Status.PROCESSED: "processed", Status.FAILED: "ended"}


class Acknowledged(Struct, frozen=True):
    """One message that an agent is done with. `status`: DELIVERED, PROCESSED (with a `result`) or FAILED
    (with a `reason`)."""

    lane: Lane
    entry: str
    message_id: str
    status: Status = Status.DELIVERED
    result: Raw | UnsetType = UNSET
    reason: str | None = None


class Acknowledger:
    """Acknowledges for any agent. `now_ms`: the server's time."""

    def __init__(self, link: Link, *, shards: int, now_ms: Callable[[], Awaitable[int]]) -> None:
        self._link = link
        self._shards = shards
        self._now_ms = now_ms
        self._keys = [Keys(shard) for shard in range(shards)]

    async def acknowledge(self, agent_id: str, done: Sequence[Acknowledged]) -> list[bool]:
        """Acknowledge entries of an agent; tell for each whether it was still there.

        Raises: StreamsUnavailable: what was done is unknown, and repeating it is harmless.
        """
        there: list[bool] = []
        for start in range(0, len(done), SETTLE_BATCH_MAX):
            there += await self._settle(agent_id, done[start : start + SETTLE_BATCH_MAX])
        return there

    async def _settle(self, agent_id: str, done: Sequence[Acknowledged]) -> list[bool]:
        at_ms = await self._now_ms()
        keys = self._keys[shard_of(agent_id, self._shards)]
        mailboxes = [keys.mailbox(agent_id, one.lane) for one in done]
        arguments: list[Argument] = [NATIVE_GROUP]
        for one in done:
            arguments += (one.entry, b'{"id":"%b"' % one.message_id.encode(), _event(one, agent_id, at_ms))
        connection = await self._link.get()
        waiters = await connection.evaluate(
            ACKNOWLEDGE, (keys.ledger, keys.expiry, keys.active, *mailboxes), *arguments
        )
        receipts = [
            (waiter.decode(), Receipt(one.message_id, RUNGS[one.status]))
            for one, waiter in zip(done, waiters, strict=True)
            if waiter
        ]
        await _tell(connection, receipts)
        return [waiter is not None for waiter in waiters]


def _event(one: Acknowledged, agent_id: str, at_ms: int) -> bytes:
    return encode(
        Event(
            kind=EventKind.SETTLED,
            id=one.message_id,
            at_ms=at_ms,
            to=agent_id,
            status=one.status,
            result=one.result,
            reason=one.reason,
            mailbox_entry=one.entry,
        )
    )


async def _tell(connection: Connection, receipts: Sequence[tuple[str, Receipt]]) -> None:
    """Tell the gateways that wait. A word that gets lost costs the waiter its next look at the record."""
    try:
        await notifications.publish(connection, receipts)
    except Unavailable:
        return
