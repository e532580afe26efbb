"""Ownership: which process works on a shard for a trade, by lease, with fencing tokens.

A process announces itself per trade, counts the live ones, and takes, keeps or gives up shards so that they
spread evenly: with N shards and P processes in the order of their names, the i-th is due N // P and, where
i < N mod P, one more. Every script that changes something is given the lease's value (`token:process`) and
refuses a stale one, so a process that slept through the end of its lease changes nothing.

Of a cluster, a node that is away takes only the leases of its own shards with it: every question has a
deadline, and no shard waits for another's answer.

Invariant: a lease is reported as held only while less than its length has passed since it was last known to
be renewed, measured from *before* the renewal was sent.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import Final

from msgspec import Struct

from broker.streams.connection import Connection
from broker.streams.keys import Keys, processes
from broker.streams.scripts import ANNOUNCE, LEASE
from schema.errors import StreamsUnavailable

RENEWALS_PER_LEASE: Final = 3
ANSWERS_PER_LEASE: Final = 4
"""An answer may take this part of a lease: a turn asks three times (renew, announce, take), and no lease may
end because the answer for another shard did not come."""
ANSWER_S_MIN: Final = 1.0
"""However short leases are: a busy machine is not an absent one."""


class Lease(Struct):
    """A lease held: its shard and trade, the owner value scripts compare, when it ends on our clock."""

    shard: int
    trade: str
    value: str
    ends_at_s: float

    @property
    def is_live(self) -> bool:
        return time.monotonic() < self.ends_at_s

    @property
    def late_ms(self) -> int:
        """How long ago it has ended, in ms; 0 while it lasts."""
        return max(0, round((time.monotonic() - self.ends_at_s) * 1_000))


class Leases:
    """The leases of one process for one trade."""

    def __init__(self, *, trade: str, process: str, shards: int, lease_ms: int) -> None:
        self.trade = trade
        self._process = process
        self._lease_ms = lease_ms
        self._answer_s = max(ANSWER_S_MIN, lease_ms / 1000 / ANSWERS_PER_LEASE)
        self._keys = [Keys(shard) for shard in range(shards)]
        self.held: dict[int, Lease] = {}
        self._silent: set[int] = set()
        """Shards that gave no answer when they were last asked for: they are asked after the others."""

    async def renew(self, connection: Connection) -> list[Lease]:
        """Renew everything held; return the leases that were lost.

        One that gave no answer is held until it ends. Raises: StreamsUnavailable where none did.
        """
        leases = list(self.held.values())
        answers = await asyncio.gather(
            *(self._renew(connection, lease) for lease in leases), return_exceptions=True
        )
        _raise_unless_some_answered(answers)
        lost = []
        for lease, answer in zip(leases, answers, strict=True):
            is_over = not lease.is_live if isinstance(answer, StreamsUnavailable) else not answer
            if is_over and self.held.get(lease.shard) is lease:  # else it was given up meanwhile
                lost.append(self.held.pop(lease.shard))
        return lost

    async def _renew(self, connection: Connection, lease: Lease) -> bool:
        sent_at_s = time.monotonic()
        is_ours = await self._ask(connection, lease.shard, "renew", lease.value) == 1
        if is_ours:
            lease.ends_at_s = sent_at_s + self._lease_ms / 1000
        return is_ours

    async def due(self, connection: Connection, *, now_ms: int) -> int:
        """Announce this process; return how many shards it should own among the live processes.

        Raises: StreamsUnavailable.
        """
        until_ms = now_ms + self._lease_ms
        try:
            async with asyncio.timeout(self._answer_s):
                names = await connection.evaluate(
                    ANNOUNCE, (processes(self.trade),), self._process, until_ms, now_ms
                )
        except TimeoutError:
            raise StreamsUnavailable("no answer in time about who else is alive") from None
        live = sorted(name.decode() for name in names)
        share, rest = divmod(len(self._keys), max(1, len(live)))
        place = live.index(self._process) if self._process in live else len(live)
        return share + (1 if place < rest else 0)

    async def take(self, connection: Connection, *, up_to: int, prefer: Iterable[int] = ()) -> list[Lease]:
        """Take free shards until `up_to` are held, preferred ones first; return those taken now.

        Asks for as many at once as are missing; what gives no answer is asked for again, after the others.
        """
        every = dict.fromkeys((*prefer, *range(len(self._keys))))
        order = sorted((shard for shard in every if shard not in self.held), key=self._silent.__contains__)
        taken: list[Lease] = []
        while order and (missing := up_to - len(self.held)) > 0:
            asked, order = order[:missing], order[missing:]
            answers = await asyncio.gather(
                *(self._take(connection, shard) for shard in asked), return_exceptions=True
            )
            taken += [answer for answer in answers if isinstance(answer, Lease)]
            silent = {s for s, answer in zip(asked, answers, strict=True) if _is_silence(answer)}
            self._silent = self._silent.difference(asked) | silent
            if silent:
                # The others are asked for in the next turn: this one has waited long enough.
                break
        return taken

    async def _take(self, connection: Connection, shard: int) -> Lease | None:
        sent_at_s = time.monotonic()
        value = await self._ask(connection, shard, "take", self._process)
        if not isinstance(value, bytes):
            return None
        lease = Lease(shard, self.trade, value.decode(), sent_at_s + self._lease_ms / 1000)
        self.held[shard] = lease
        return lease

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
        """Ask for, or about, a lease. Raises: StreamsUnavailable, also where no answer comes in time."""
        keys = self._keys[shard]
        try:
            async with asyncio.timeout(self._answer_s):
                answer: int | bytes | None = await connection.evaluate(
                    LEASE, (keys.owner(self.trade), keys.fence(self.trade)), what, who, self._lease_ms
                )
        except TimeoutError:
            raise StreamsUnavailable(f"no answer about the lease of shard {shard} in time") from None
        return answer


def _is_silence(answer: object) -> bool:
    """Tell no answer from an answer. Raises: what is neither, which is a fault."""
    if isinstance(answer, BaseException) and not isinstance(answer, StreamsUnavailable):
        raise answer
    return isinstance(answer, StreamsUnavailable)


def _raise_unless_some_answered(answers: Sequence[object]) -> None:
    """Raises: the first failure, where there is nothing else."""
    silences = [answer for answer in answers if isinstance(answer, StreamsUnavailable)]
    if silences and len(silences) == len(answers):
        raise silences[0]
