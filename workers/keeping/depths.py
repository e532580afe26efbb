"""How much waits in a shard, looked at every other second and at a bounded price however much that is.

Ingress and ledger are counted in entries, and an entry may carry several messages (up to 64 published
together, up to 128 events settled together). Mailboxes and parked messages are one entry a message; what is
posted without having been in one counts as lying there. Of very
many mailboxes a part is measured at each look, in turn, and the sum extrapolated from the parts; the agents
with the most are measured every time. Mailboxes of agents that pull are not on the active set: not counted.
"""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Sequence
from heapq import nlargest
from math import ceil
from typing import Final

from broker.core.admission import SHED_RATIO
from broker.streams.connection import Connection
from broker.streams.info import memory_share
from broker.streams.keys import Keys, mailbox_owner
from broker.telemetry import logs
from broker.telemetry.metrics import TOP_AGENTS_MAX
from schema.message import LANES
from workers.keeping.board import Board, Depths

LOOK_S: Final = 2.0
MEMORY_LOGGED_S: Final = 60.0
"""While publishing is refused for want of memory, the log says so often what it is that fills it."""
SAMPLE_MAX: Final = 1_000
"""Streams measured in one pipeline: a millisecond or two of the server's time."""


class DepthGauge:
    """Measures one shard."""

    def __init__(self, keys: Keys, board: Board) -> None:
        self._keys = keys
        self._board = board
        self._offset = 0
        self._top: dict[str, int] = {}
        self._parts: deque[tuple[int, int]] = deque()
        self._said_s = float("-inf")

    async def run(self, connection: Connection) -> None:
        """Measure until cancelled. Raises: StreamsUnavailable."""
        while True:
            self._board.show_depths(self._keys.shard, await self.measure(connection))
            await asyncio.sleep(LOOK_S)

    async def measure(self, connection: Connection) -> Depths:
        """Return what waits now. Raises: StreamsUnavailable."""
        keys = self._keys
        *ingress, due, later, ledger, signatures, active, direct, memory = await connection.send_many(
            (
                *(("XLEN", lane) for lane in {*keys.ingress.values(), *keys.published.values()}),
                ("ZCARD", keys.due),
                ("ZCARD", keys.later),
                ("XLEN", keys.ledger),
                ("HLEN", keys.parked),
                ("ZCARD", keys.active),
                ("HLEN", keys.direct),
                ("INFO", "memory"),
            )
        )
        depths = Depths({"ingress": sum(ingress), "due": due, "later": later, "ledger": ledger})
        depths.queues["parked"] = await self._parked(connection, signatures)
        depths.queues["mailbox"] = direct + await self._mailboxes(connection, active)
        depths.agents = self._top
        depths.memory_ratio = memory_share(memory)
        self._say_full(depths)
        return depths

    def _say_full(self, depths: Depths) -> None:
        now_s = time.monotonic()
        if depths.memory_ratio > SHED_RATIO and now_s - self._said_s >= MEMORY_LOGGED_S:
            self._said_s = now_s
            ratio = round(depths.memory_ratio, 2)
            logs.warning("streams.memory_high", shard=self._keys.shard, ratio=ratio, **depths.queues)

    async def _parked(self, connection: Connection, signatures: int) -> int:
        """Return how many messages are parked; extrapolated where they have very many signatures."""
        if signatures == 0:
            return 0
        sample = await connection.send("HRANDFIELD", self._keys.parked, SAMPLE_MAX)
        streams = [self._keys.parked_stream(signature.decode()) for signature in sample]
        found = sum(await _lengths(connection, streams))
        return found if len(sample) < SAMPLE_MAX else round(found * signatures / len(sample))

    async def _mailboxes(self, connection: Connection, active: int) -> int:
        """Return how many messages lie in `active` mailboxes, and note the agents with the most."""
        sample = await self._next_sample(connection, active)
        lengths = await _lengths(connection, sample)
        measured: Counter[str] = Counter()
        for mailbox, length in zip(sample, lengths, strict=True):
            measured[mailbox_owner(mailbox)[0]] += length
        await self._rank(connection, measured)
        self._parts.append((len(sample), sum(lengths)))
        while len(self._parts) > max(1, ceil(active / SAMPLE_MAX)):
            self._parts.popleft()
        streams = sum(count for count, _ in self._parts)
        messages = sum(length for _, length in self._parts)
        return messages if active <= streams else round(messages * active / max(1, streams))

    async def _next_sample(self, connection: Connection, active: int) -> list[str]:
        """Return the mailboxes whose turn it is: all of them, or the next part."""
        if self._offset >= active or active <= SAMPLE_MAX:
            self._offset = 0
        last = self._offset + SAMPLE_MAX - 1
        members = await connection.send("ZRANGE", self._keys.active, self._offset, last)
        self._offset += SAMPLE_MAX
        return [member.decode() for member in members]

    async def _rank(self, connection: Connection, measured: Counter[str]) -> None:
        """Choose the agents with the most: of this part, and of those that had the most before.

        All lanes of a former one are measured, and of a new one those in this part; the rest next time.
        """
        former = list(self._top)
        streams = [self._keys.mailbox(agent_id, lane) for agent_id in former for lane in LANES]
        lengths = await _lengths(connection, streams)
        for place, agent_id in enumerate(former):
            measured[agent_id] = sum(lengths[place * len(LANES) : (place + 1) * len(LANES)])
        top = nlargest(TOP_AGENTS_MAX, measured.items(), key=lambda row: row[1])
        self._top = {agent_id: length for agent_id, length in top if length}


async def _lengths(connection: Connection, streams: Sequence[str]) -> list[int]:
    return await connection.send_many([("XLEN", stream) for stream in streams])
