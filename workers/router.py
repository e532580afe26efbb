"""The routing trade of one shard: reads the ingress lanes, decides in batches, moves each batch by one call.

Several calls may be under way; each is complete in itself. An entry is deleted by the call that moves its
messages and by nothing else, so a router that dies loses nothing, and the next begins at the start.

A message for another shard is forwarded before it is deleted here. Where that recipient was a choice, the
choice is written down first: a crash in between repeats the same one, and the other shard drops the second
copy. "Unknown recipient" is judged only against a directory refreshed after the message was read.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from msgspec import Struct

from broker.core.lanes import LaneWeights
from broker.streams.clock import ServerClock
from broker.streams.connection import Connection
from broker.streams.ingress import Publisher
from broker.streams.keys import Keys, taken_back
from broker.streams.lanes import BLOCK_MS, IngressEntry, LaneReader
from broker.streams.ownership import Lease
from broker.streams.scripts import CHOOSE
from broker.telemetry import logs
from schema.errors import BrokerError, StoreUnavailable, StreamsFull
from schema.limits import ENTRY_MESSAGES_MAX, ROUTE_BATCH_MAX, ROUTE_CALLS_IN_FLIGHT_MAX
from schema.message import LANES, Envelope, Lane, Reason
from workers.delivery.delivery import Delivery
from workers.moving import Mover, Placed
from workers.placing import Placement, Placer, Way

BUFFERED_ENTRIES_MAX: Final = 256
"""Entries read ahead per lane; beyond this a lane is not read until routing has caught up."""
SET_ASIDE_MAX: Final = 10_000
"""Entries that may wait for Postgres to judge an unknown name; beyond this routing waits with them."""
SET_ASIDE_S: Final = 1.0
JUDGE_S: Final = 0.5
"""How long a batch waits for Postgres to say who is there (2-10 ms, as a rule). What it does not know then is
set aside, and no other batch waits until that question was answered: known names must not stand behind
unknown ones while Postgres takes connections and says nothing."""
URGENT_FOR_S: Final = 1.0
"""After something urgent more of it is expected for so long."""
BATCH_BESIDE_URGENT_MAX: Final = 64
"""Messages of the one call under way then, instead of three calls of 128: half the time that what is urgent
waits behind them (p99 of 54 and 61 ms, 23 to 34 so), for a twelfth less a second."""
FULL_S: Final = 0.25
"""Wait after Redis at its memory limit has refused a call."""


class RouterRules(Struct, frozen=True):
    """What the deployment sets."""

    shards: int
    window_ms: int


class Router:
    """Routes the messages of one shard while its lease lasts."""

    def __init__(
        self,
        connection: Connection,
        keys: Keys,
        lease: Lease,
        *,
        placer: Placer,
        refresh: Callable[[], Awaitable[None]],
        publisher: Publisher,
        clock: ServerClock,
        rules: RouterRules,
        delivery: Callable[[], Delivery | None],
    ) -> None:
        self.failed: asyncio.Future[BrokerError] = asyncio.get_running_loop().create_future()
        self._connection = connection
        self._keys = keys
        self._placer = placer
        self._refresh = refresh
        self._publisher = publisher
        self._clock = clock
        self._rules = rules
        self._delivery = delivery
        self._owner = lease.value
        self._mover = Mover(
            connection,
            keys,
            owner=lease.value,
            window_ms=rules.window_ms,
            clock=clock,
            delivery=delivery,
        )
        self._weights = LaneWeights()
        self._buffers: dict[Lane, deque[IngressEntry]] = {lane: deque() for lane in LANES}
        self._set_aside: deque[IngressEntry] = deque()
        self._came_s = dict.fromkeys(LANES, -URGENT_FOR_S)
        """When something came last, by lane."""
        self._chosen: dict[str, str] = {}
        """Choices an earlier owner wrote down and may or may not have forwarded."""
        self._refused: list[IngressEntry] = []
        self._group: asyncio.TaskGroup | None = None
        self._refreshing: asyncio.Task[BrokerError | None] | None = None
        self._calls = 0
        self._work = asyncio.Event()
        self._room = asyncio.Event()
        self._stopping = False

    async def run(self, reader: Connection) -> None:
        """Route until cancelled or failed; `reader` is a connection of its own, for reads that block.

        Raises: BrokerError.
        """
        await self._recall_choices()
        async with asyncio.TaskGroup() as group:
            self._group = group
            group.create_task(self._read(LaneReader(reader, self._keys)))
            group.create_task(self._route())
            group.create_task(self._bring_back())
            group.create_task(self._watch())

    async def _recall_choices(self) -> None:
        chosen = await self._connection.send("HGETALL", self._keys.chosen)
        self._chosen = {
            message.decode(): agent.decode() for message, agent in zip(chosen[::2], chosen[1::2], strict=True)
        }

    async def drain(self) -> None:
        """Begin no further batch and wait for those under way. The caller bounds the wait."""
        self._stopping = True
        while self._calls and not self.failed.done():
            self._room.clear()
            await self._room.wait()

    def close(self) -> None:
        self._stopping = True
        if not self.failed.done():
            self.failed.cancel()

    # --- reading --------------------------------------------------------------------------------------

    async def _read(self, reader: LaneReader) -> None:
        while True:
            self._room.clear()
            lanes = self._lanes_with_room()
            # While one lane is full, the others are looked into and not waited for: it would not be read on
            # until something came there, and run empty meanwhile.
            block_ms = BLOCK_MS if len(lanes) == len(LANES) else None
            entries = await reader.read(lanes, block_ms=block_ms) if lanes else []
            now_s = asyncio.get_running_loop().time()
            for entry in entries:
                self._buffers[entry.lane].append(entry)
                self._came_s[entry.lane] = now_s
            if entries:
                self._work.set()
            elif block_ms is None:
                await self._room.wait()

    def _lanes_with_room(self) -> list[Lane]:
        if len(self._set_aside) >= SET_ASIDE_MAX:
            return []
        return [lane for lane in LANES if len(self._buffers[lane]) < BUFFERED_ENTRIES_MAX]

    async def _bring_back(self) -> None:
        """Try again what could not be judged."""
        while True:
            await asyncio.sleep(SET_ASIDE_S)
            while self._set_aside:
                entry = self._set_aside.popleft()
                self._buffers[entry.lane].append(entry)
                self._work.set()
            self._room.set()

    # --- routing --------------------------------------------------------------------------------------

    async def _route(self) -> None:
        while True:
            if self._refused and not self._calls:
                await self._wait_for_memory()
            elif self._stopping or self._refused or not any(self._buffers.values()):
                self._work.clear()
                await self._work.wait()
            elif self._calls >= (1 if (short := self._is_beside_urgent) else ROUTE_CALLS_IN_FLIGHT_MAX):
                self._room.clear()
                await self._room.wait()
            elif (delivery := self._delivery()) is not None and delivery.is_saturated:
                # What is left in the ingress costs nothing; routed now, it would be told to the record and
                # read back later.
                await delivery.relief()
            else:
                # Counted from here, so that a drain waits for a batch that is still being decided.
                self._calls += 1
                await self._route_batch(self._take(BATCH_BESIDE_URGENT_MAX if short else ROUTE_BATCH_MAX))

    @property
    def _is_beside_urgent(self) -> bool:
        """Whether most of what waits to be routed is less urgent than what else comes at the moment, which
        would stand behind whatever is under way."""
        now_s, as_urgent = asyncio.get_running_loop().time(), 0
        for lane in LANES:
            as_urgent += len(self._buffers[lane])
            if now_s - self._came_s[lane] < URGENT_FOR_S:
                return 2 * as_urgent < sum(map(len, self._buffers.values()))
        return False

    async def _route_batch(self, entries: list[IngressEntry]) -> None:
        now_ms = self._clock.now_ms()
        placed = self._place_batch(entries, now_ms)
        if on_record := [one for _, many in placed for one in many if one.on_record]:
            await self._drop_withdrawn(on_record)
        ways = {one.way for _, many in placed for one in many}
        if Way.UNDECIDED in ways:
            placed = await self._judge_unknown(placed, now_ms)
            entries = [entry for entry, _ in placed]
            ways = {one.way for _, many in placed for one in many}
        try:
            if Way.FORWARD in ways:
                leaving = [(entry, one) for entry, many in placed for one in many if one.way is Way.FORWARD]
                await self._forward(leaving, now_ms)
        except StreamsFull as error:
            self._moved(entries, error)
            return
        if placed:
            self._mover.move(placed, partial(self._moved, entries))
        else:
            self._moved(entries, None)

    async def _drop_withdrawn(self, moving: list[Placement]) -> None:
        """Let go of messages whose sender has taken them back while they were on their way here, from among
        those scheduled or parked, from another agent, or in a later round: nothing else finds them then."""
        names = [
            taken_back(one.id, one.round or 0) for one in (it.envelope for it in moving) if one is not None
        ]
        withdrawn = await self._connection.send("ZMSCORE", self._keys.withdrawn, *names)
        for one, withdrawn_ms in zip(moving, withdrawn, strict=True):
            if withdrawn_ms is not None:
                one.way = Way.DUPLICATE

    async def _wait_for_memory(self) -> None:
        """Redis is at its limit: what it refused stays in the ingress, and is tried again in its order."""
        await asyncio.sleep(FULL_S)
        await self._recall_choices()  # What was forwarded, and could not be deleted here, goes there again.
        refused, self._refused = self._refused, []
        for entry in reversed(refused):
            entry.is_again = True
            self._buffers[entry.lane].appendleft(entry)

    def _take(self, room: int) -> list[IngressEntry]:
        """Take entries for one batch, by the weights of their lanes. What a call carries is bounded hard: Lua
        takes no 8,000 keys at once."""
        return [entry for _, entry in self._weights.take(self._buffers, room, size=_size)]

    def _place_batch(self, entries: list[IngressEntry], now_ms: int) -> Placed:
        keys: set[bytes] = set()
        return [(entry, self._place_all(entry, keys, now_ms)) for entry in entries]

    def _place_all(self, entry: IngressEntry, keys: set[bytes], now_ms: int) -> list[Placement]:
        if not entry.messages or len(entry.messages) > ENTRY_MESSAGES_MAX:
            detail = f"{len(entry.messages)} messages; 1 to {ENTRY_MESSAGES_MAX}"
            raw = b"\n".join(entry.messages)
            return [Placement(Way.QUARANTINED, raw, reason=Reason.MALFORMED.value, detail=detail)]
        placements = []
        for raw in entry.messages:
            placement = self._place(raw, entry, now_ms)
            key = placement.key
            if key in keys:
                placement.way = Way.DUPLICATE
            elif key:
                keys.add(key)
            placements.append(placement)
        return placements

    def _place(self, raw: bytes, entry: IngressEntry, now_ms: int) -> Placement:
        try:
            return self._placer.place(raw, entry, self._chosen, now_ms=now_ms)
        except Exception as error:
            # A fault of ours must not stop the stream: the next owner would meet the same message again.
            logs.error("route.message_broken", shard=self._keys.shard, entry=entry.id, error=error)
            detail = f"the router failed on it: {type(error).__name__}"
            return Placement(Way.QUARANTINED, raw, reason=Reason.MALFORMED.value, detail=detail)

    async def _judge_unknown(self, placed: Placed, now_ms: int) -> Placed:
        """Refresh the directory and place again; what is unknown then, is unknown. With Postgres away nobody
        can say, so the entries concerned wait."""
        if not await self._refreshed():
            known = []
            for entry, many in placed:
                if any(one.way is Way.UNDECIDED for one in many):
                    self._set_aside.append(entry)
                else:
                    known.append((entry, many))
            return known
        for entry, many in placed:
            for number, one in enumerate(many):
                if one.way is Way.UNDECIDED:
                    again = self._place(one.raw, entry, now_ms)
                    decided = again.way is not Way.UNDECIDED
                    many[number] = again if decided else self._placer.judge_unknown(again)
        return placed

    async def _refreshed(self) -> bool:
        """Refresh the directory; false where Postgres is away or does not answer soon. A refresh that still
        goes on may have begun before the messages to be judged were read: it says nothing of them.

        Raises: BrokerError, but StoreUnavailable.
        """
        if self._refreshing is not None and not self._refreshing.done():
            return False
        assert self._group is not None
        self._refreshing = self._group.create_task(self._try_to_refresh())
        done, _ = await asyncio.wait((self._refreshing,), timeout=JUDGE_S)
        error = self._refreshing.result() if done else None
        if error is not None and not isinstance(error, StoreUnavailable):
            raise error
        return bool(done) and error is None

    async def _try_to_refresh(self) -> BrokerError | None:
        try:
            await self._refresh()
        except BrokerError as error:
            return error
        return None

    async def _forward(self, leaving: list[tuple[IngressEntry, Placement]], now_ms: int) -> None:
        """Hand messages to the shards of their recipients; choices are written down first."""
        known = await self._seen_before([one for _, one in leaving], now_ms)
        parting = [one for (entry, one), seen in zip(leaving, known, strict=True) if entry.passed or not seen]
        choices = [
            part
            for one in parting
            if one.chosen and one.envelope is not None and one.agent is not None
            for part in (one.envelope.id, one.agent.id)
        ]
        if choices:
            keys = (self._keys.owner("route"), self._keys.chosen)
            await self._connection.evaluate(CHOOSE, keys, self._owner, *choices)
        together: dict[tuple[str, bool], list[Envelope]] = defaultdict(list)
        for (entry, one), seen in zip(leaving, known, strict=True):
            if one.envelope is not None and (entry.passed or not seen):
                together[entry.waiter, one.on_record].append(one.envelope)
        for (waiter, on_record), envelopes in together.items():
            await self._publisher.publish_many(envelopes, waiter=waiter or None, known=on_record)

    async def _seen_before(self, placements: list[Placement], now_ms: int) -> list[bool]:
        """Tell which were routed here already: a second choice might send them to somebody else. The route
        call drops them like any duplicate."""
        window = now_ms // self._rules.window_ms
        keys = [one.key or b"-" for one in placements]
        now, before = await self._connection.send_many(
            [
                ("SMISMEMBER", self._keys.seen(window), *keys),
                ("SMISMEMBER", self._keys.seen(window - 1), *keys),
            ]
        )
        return [bool(one or other) for one, other in zip(now, before, strict=True)]

    def _moved(self, entries: list[IngressEntry], error: BrokerError | None) -> None:
        self._calls -= 1
        self._room.set()
        if isinstance(error, StreamsFull):
            self._refused += entries
        elif error is not None and not self.failed.done():
            self.failed.set_result(error)
        if self._refused:
            self._work.set()

    async def _watch(self) -> None:
        raise await self.failed


def _size(entry: IngressEntry) -> int:
    """Return what an entry takes up of a call, also one in which there is no message."""
    return len(entry.messages) or 1
