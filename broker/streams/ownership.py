"""Ownership: which process works on a shard for a trade, by lease, with fencing tokens.

A process announces itself per trade, counts the live ones, and takes, keeps or gives up shards so that they
spread evenly: with N shards and P processes in the order of their names, the i-th is due N // P and, where
i < N mod P, one more. Every script that changes something is given the lease's value (`token:process`) and
refuses a stale one, so a process that slept through the end of its lease changes nothing.

Invariant: a lease is reported as held only while less than its length has passed since it was last known to
be renewed, measured from *before* the renewal was sent.
"""

import time
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from broker.streams.connection import Connection
from broker.streams.keys import Keys, processes
from broker.streams.scripts import ANNOUNCE, LEASE

RENEWALS_PER_LEASE: Final = 3


class Lease(Struct):
    """A lease held: its shard and trade, the owner value scripts compare, when it ends on our clock."""

    shard: int
    trade: str
    value: str
    ends_at_s: float

    @property
    def is_live(self) -> bool:
        return time.monotonic() < self.ends_at_s


class Leases:
    """The leases of one process for one trade."""

    def __init__(self, *, trade: str, process: str, shards: int, lease_ms: int) -> None:
        self.trade = trade
        self._process = process
        self._lease_ms = lease_ms
        self._keys = [Keys(shard) for shard in range(shards)]
        self.held: dict[int, Lease] = {}

    async def renew(self, connection: Connection) -> list[Lease]:
        """Renew everything held; return the leases that were lost. Raises: StreamsUnavailable."""
        lost = []
        for lease in list(self.held.values()):
            sent_at_s = time.monotonic()
            if await self._ask(connection, lease.shard, "renew", lease.value) == 1:
                lease.ends_at_s = sent_at_s + self._lease_ms / 1000
            elif self.held.get(lease.shard) is lease:  # else it was given up meanwhile
                lost.append(self.held.pop(lease.shard))
        return lost

    async def due(self, connection: Connection, *, now_ms: int) -> int:
        """Announce this process; return how many shards it should own among the live processes."""
        until_ms = now_ms + self._lease_ms
        names = await connection.evaluate(ANNOUNCE, (processes(self.trade),), self._process, until_ms, now_ms)
        live = sorted(name.decode() for name in names)
        share, rest = divmod(len(self._keys), max(1, len(live)))
        place = live.index(self._process) if self._process in live else len(live)
        return share + (1 if place < rest else 0)

    async def take(self, connection: Connection, *, up_to: int, prefer: Iterable[int] = ()) -> list[Lease]:
        """Take free shards until `up_to` are held, preferred ones first; return those taken now."""
        taken = []
        order = [*prefer, *range(len(self._keys))]
        for shard in dict.fromkeys(order):
            if len(self.held) >= up_to:
                break
            if shard in self.held:
                continue
            sent_at_s = time.monotonic()
            value = await self._ask(connection, shard, "take", self._process)
            if isinstance(value, bytes):
                lease = Lease(shard, self.trade, value.decode(), sent_at_s + self._lease_ms / 1000)
                self.held[shard] = lease
                taken.append(lease)
        return taken

    async def release(self, connection: Connection, shard: int) -> None:
        """Give up one lease, so that another process can take it at once."""
        lease = self.held.pop(shard, None)
        if lease is not None:
            await self._ask(connection, shard, "release", lease.value)

    def drop_ended(self) -> list[Lease]:
        """Let go of leases whose time has passed unrenewed (Redis is away); return them."""
        ended = [lease for lease in self.held.values() if not lease.is_live]
        for lease in ended:
            del self.held[lease.shard]
        return ended

    async def leave(self, connection: Connection) -> None:
        """Give up everything and stop being counted."""
        for shard in list(self.held):
            await self.release(connection, shard)
        await connection.send("ZREM", processes(self.trade), self._process)

    async def _ask(self, connection: Connection, shard: int, what: str, who: str) -> int | bytes | None:
        keys = self._keys[shard]
        answer: int | bytes | None = await connection.evaluate(
            LEASE, (keys.owner(self.trade), keys.fence(self.trade)), what, who, self._lease_ms
        )
        return answer
