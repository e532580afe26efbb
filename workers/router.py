"""The routing trade of one shard: reads the ingress lanes, decides in batches, moves each batch by one call.

Several calls may be under way; each is complete in itself. An entry is deleted by the call that moves its
messages and by nothing else, so a router that dies loses nothing, and the next begins at the start.

A message for another shard is forwarded before it is deleted here. Where that recipient was a choice, the
choice is written down first: a crash in between repeats the same one, and the other shard drops the second
copy. "Unknown recipient" is judged only against a directory refreshed after the message was read.
"""

import asyncio
import random
from base64 import b64encode
from collections import deque
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final

from msgspec import UNSET, Struct

from broker.core.lanes import LaneWeights
from broker.streams.clock import ServerClock
from broker.streams.connection import Connection, Reply
from broker.streams.ingress import Publisher
from broker.streams.keys import Keys
from broker.streams.lanes import IngressEntry, LaneReader
from broker.streams.moves import LANE_NUMBER, Move, RouteBatch, call_route
from broker.streams.ownership import Lease
from broker.telemetry import logs, metrics
from schema.codec import encode
from schema.errors import BrokerError, StoreUnavailable
from schema.ledger import Event, EventKind
from schema.limits import ENTRY_MESSAGES_MAX, ROUTE_BATCH_MAX, ROUTE_CALLS_IN_FLIGHT_MAX
from schema.message import LANES, Lane, lane_of
from schema.times import to_ms
from workers.delivery.delivery import Delivery
from workers.delivery.items import Mailbox
from workers.placing import Placement, Placer, Signature, Way, deduplication_key, event_of

BUFFERED_ENTRIES_MAX: Final = 256
"""Entries read ahead per lane; beyond this a lane is not read until routing has caught up."""
SET_ASIDE_MAX: Final = 1_000
SET_ASIDE_S: Final = 1.0
"""How long an entry waits whose recipient cannot be judged while Postgres is away."""

_OUTCOMES: Final = {
    outcome: metrics.MESSAGES.child(stage="route", outcome=outcome)
    for outcome in ("routed", "forwarded", "parked", "duplicate", "quarantined", "failed")
}


class RouterRules(Struct, frozen=True):
    """What the deployment sets."""

    shards: int
    window_ms: int


class _Routed(Struct, gc=False):
    """A move under way, and what to do when Redis has made it."""

    placement: Placement
    body: bytes = b""
    waiter: str = ""
    told: bool = True
    mailbox: Mailbox | None = None


class Router:
    """Routes the messages of one shard while its lease lasts."""

    def __init__(
        self,
        connection: Connection,
        reader: Connection,
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
        self.lease = lease
        self.failed: asyncio.Future[BrokerError] = asyncio.get_running_loop().create_future()
        self._connection = connection
        self._keys = keys
        self._reader = LaneReader(reader, keys)
        self._placer = placer
        self._refresh = refresh
        self._publisher = publisher
        self._clock = clock
        self._rules = rules
        self._delivery = delivery
        self._weights = LaneWeights()
        self._buffers: dict[Lane, deque[IngressEntry]] = {lane: deque() for lane in LANES}
        self._set_aside: deque[IngressEntry] = deque()
        self._chosen: dict[str, str] = {}
        self._calls = 0
        self._per_entry = 1.0
        self._work = asyncio.Event()
        self._room = asyncio.Event()
        self._stopping = False

    async def run(self) -> None:
        """Route until cancelled or failed. Raises: BrokerError."""
        chosen = await self._connection.send("HGETALL", self._keys.chosen)
        self._chosen = {
            message.decode(): agent.decode() for message, agent in zip(chosen[::2], chosen[1::2], strict=True)
        }
        async with asyncio.TaskGroup() as group:
            group.create_task(self._read())
            group.create_task(self._route())
            group.create_task(self._bring_back())
            group.create_task(self._watch())

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

    async def _read(self) -> None:
        while True:
            lanes = [lane for lane in LANES if len(self._buffers[lane]) < BUFFERED_ENTRIES_MAX]
            if not lanes:
                self._room.clear()
                await self._room.wait()
                continue
            entries = await self._reader.read(lanes)
            for entry in entries:
                self._buffers[entry.lane].append(entry)
            if entries:
                self._work.set()

    async def _bring_back(self) -> None:
        """Try again what could not be judged."""
        while True:
            await asyncio.sleep(SET_ASIDE_S)
            while self._set_aside:
                entry = self._set_aside.popleft()
                self._buffers[entry.lane].append(entry)
                self._work.set()

    # --- routing --------------------------------------------------------------------------------------

    async def _route(self) -> None:
        while True:
            if self._stopping or not any(self._buffers.values()):
                self._work.clear()
                await self._work.wait()
                continue
            if self._calls >= ROUTE_CALLS_IN_FLIGHT_MAX:
                self._room.clear()
                await self._room.wait()
                continue
            await self._route_batch(self._take())
            self._room.set()

    def _take(self) -> list[IngressEntry]:
        """Take entries for one batch, by the weights of their lanes, aiming at a number of messages."""
        room = max(1, int(ROUTE_BATCH_MAX / self._per_entry))
        entries = [entry for _, entry in self._weights.take(self._buffers, room)]
        messages = sum(len(entry.messages) for entry in entries)
        self._per_entry += 0.2 * (messages / len(entries) - self._per_entry) if entries else 0
        return entries

    async def _route_batch(self, entries: list[IngressEntry]) -> None:
        now_ms = self._clock.now_ms()
        placed: list[tuple[IngressEntry, list[Placement]]] = [
            (entry, self._place_all(entry, now_ms)) for entry in entries
        ]
        if any(one.way is Way.UNDECIDED for _, many in placed for one in many):
            placed = await self._judge_unknown(placed, now_ms)
        if any(one.way is Way.FORWARD for _, many in placed for one in many):
            await self._forward([one for _, many in placed for one in many if one.way is Way.FORWARD])
        if placed:
            self._move(placed, self._clock.now_ms())

    def _place_all(self, entry: IngressEntry, now_ms: int) -> list[Placement]:
        if not entry.messages or len(entry.messages) > ENTRY_MESSAGES_MAX:
            detail = f"{len(entry.messages)} fields `m`; 1 to {ENTRY_MESSAGES_MAX}"
            raw = b"\n".join(entry.messages)
            return [Placement(Way.QUARANTINED, raw, reason="malformed", detail=detail)]
        place = self._placer.place
        return [
            place(raw, entry, self._chosen, now_ms=now_ms, chance=(random.random(), random.random()))
            for raw in entry.messages
        ]

    async def _judge_unknown(
        self, placed: list[tuple[IngressEntry, list[Placement]]], now_ms: int
    ) -> list[tuple[IngressEntry, list[Placement]]]:
        """Refresh the directory and place again; what is unknown then, is unknown. With Postgres away nobody
        can say, so the entries concerned wait."""
        try:
            await self._refresh()
        except StoreUnavailable:
            known = []
            for entry, many in placed:
                if any(one.way is Way.UNDECIDED for one in many):
                    self._set_aside.append(entry)
                else:
                    known.append((entry, many))
            return known
        again = []
        for entry, many in placed:
            if any(one.way is Way.UNDECIDED for one in many):
                many = [
                    self._placer.judge_unknown(one) if one.way is Way.UNDECIDED else one
                    for one in self._place_all(entry, now_ms)
                ]
            again.append((entry, many))
        return again

    async def _forward(self, placements: list[Placement]) -> None:
        """Hand messages to the shards of their recipients; choices are written down first."""
        choices = [one for one in placements if one.chosen]
        if choices:
            pairs: list[str] = []
            for one in choices:
                assert one.envelope is not None
                assert one.agent is not None
                pairs += (one.envelope.id, one.agent.id)
                self._chosen[one.envelope.id] = one.agent.id
            await self._connection.send("HSET", self._keys.chosen, *pairs)
        await self._publisher.publish_many([one.envelope for one in placements if one.envelope is not None])
        _OUTCOMES["forwarded"].inc(len(placements))

    # --- moving ---------------------------------------------------------------------------------------

    def _move(self, placed: list[tuple[IngressEntry, list[Placement]]], now_ms: int) -> None:
        batch = RouteBatch()
        routed: list[_Routed] = []
        delivery = self._delivery()
        keys_seen: set[bytes] = set()
        for entry, placements in placed:
            batch.done[entry.lane].append(entry.id)
            for placement in placements:
                key = self._key_of(placement, entry)
                if key and key in keys_seen:
                    _OUTCOMES["duplicate"].inc()
                    continue
                keys_seen.add(key)
                routed.append(self._add(batch, placement, entry, key, delivery, now_ms))
        self._calls += 1
        call_route(
            self._connection,
            self._keys,
            batch,
            owner=self.lease.value,
            window_ms=self._rules.window_ms,
            now_ms=now_ms,
            on_reply=partial(self._moved, routed, delivery),
        )

    def _key_of(self, placement: Placement, entry: IngressEntry) -> bytes:
        """Return the deduplication key: none for what was deduplicated before, and for what is no message."""
        if entry.passed or placement.envelope is None or placement.way is Way.QUARANTINED:
            return b""
        return deduplication_key(placement.envelope)

    def _add(
        self,
        batch: RouteBatch,
        placement: Placement,
        entry: IngressEntry,
        key: bytes,
        delivery: Delivery | None,
        now_ms: int,
    ) -> _Routed:
        envelope, way = placement.envelope, placement.way
        if way is Way.QUARANTINED:
            batch.moves.append(Move(b"", None, event=self._quarantined(placement, entry, now_ms)))
            return _Routed(placement)
        assert envelope is not None
        body = encode(envelope)
        waiter = entry.waiter
        if way is Way.MAILBOX:
            return self._add_to_mailbox(batch, placement, body, waiter, key, delivery, now_ms)
        event = event_of(placement, body, waiter, now_ms=now_ms)
        if way is Way.FORWARD:
            batch.moves.append(Move(key, None))
            if placement.chosen:
                batch.forget.append(envelope.id)
                self._chosen.pop(envelope.id, None)
        elif way is Way.LATER:
            assert envelope.deliver_at is not UNSET
            assert envelope.deliver_at is not None
            member = LANE_NUMBER[entry.lane] + envelope.id
            batch.moves.append(
                Move(key, None, body, event=event, moment=to_ms(envelope.deliver_at), later=member)
            )
        elif way is Way.PARKED:
            signature = Signature(placement.requirements, envelope.message_type, entry.lane)
            batch.parked[signature.key] = encode(signature)
            target = self._keys.parked_stream(signature.key)
            batch.moves.append(Move(key, target, body, waiter, event, _expires_ms(placement)))
        else:
            batch.moves.append(Move(key, None, event=event))
        return _Routed(placement)

    def _add_to_mailbox(
        self,
        batch: RouteBatch,
        placement: Placement,
        body: bytes,
        waiter: str,
        key: bytes,
        delivery: Delivery | None,
        now_ms: int,
    ) -> _Routed:
        envelope, agent = placement.envelope, placement.agent
        assert envelope is not None
        assert agent is not None
        lane = lane_of(envelope.priority)
        mailbox = delivery.expect(agent, lane) if delivery is not None else None
        target = mailbox.key if mailbox is not None else self._keys.mailbox(agent.id, lane)
        direct = False
        if delivery is not None and mailbox is not None:
            direct = delivery.takes_directly(mailbox)
            if not mailbox.active:
                mailbox.active = True
                batch.activate.add(target)
        elif agent.endpoint is not None:
            batch.activate.add(target)
            batch.ring.append(target)
        event = b"" if direct else event_of(placement, body, waiter, now_ms=now_ms)
        batch.moves.append(Move(key, target, body, waiter, event, _expires_ms(placement)))
        return _Routed(placement, body, waiter, not direct, mailbox)

    def _quarantined(self, placement: Placement, entry: IngressEntry, now_ms: int) -> bytes:
        """Return the events of something set aside: its bytes, and, where it is a message, how that ended."""
        events = [
            Event(
                kind=EventKind.QUARANTINED,
                id=entry.id,
                at_ms=now_ms,
                reason=placement.reason,
                detail=placement.detail[:500],
                raw=b64encode(placement.raw).decode(),
                stream=self._keys.ingress[entry.lane],
            )
        ]
        metrics.QUARANTINED.child().inc()
        logs.warning(
            "route.quarantined",
            shard=self._keys.shard,
            entry=entry.id,
            reason=placement.reason,
            detail=placement.detail,
        )
        encoded = encode(events[0])
        if placement.envelope is not None:
            encoded += b"," + event_of(placement, encode(placement.envelope), entry.waiter, now_ms=now_ms)
        return encoded

    # --- after the move -------------------------------------------------------------------------------

    def _moved(self, routed: list[_Routed], delivery: Delivery | None, reply: Reply) -> None:
        """Hand over what Redis has moved; `delivery` is who expected it."""
        self._calls -= 1
        self._room.set()
        if isinstance(reply, BrokerError):
            if not self.failed.done():
                self.failed.set_result(reply)
            return
        now_ms = self._clock.now_ms()
        owner = self._delivery()
        moved = 0
        for one, entry in zip(routed, reply, strict=True):
            way = one.placement.way
            if way is Way.MAILBOX:
                moved += entry is not None
                if owner is not None:
                    self._hand_over(owner, one, entry, expected=owner is delivery, now_ms=now_ms)
            elif entry is not None and way is not Way.FORWARD:
                _OUTCOMES[_COUNTED[way]].inc()
            if entry is None:
                _OUTCOMES["duplicate"].inc()
        _OUTCOMES["routed"].inc(moved)

    def _hand_over(
        self, owner: Delivery, one: _Routed, entry: bytes | None, *, expected: bool, now_ms: int
    ) -> None:
        envelope, agent = one.placement.envelope, one.placement.agent
        assert envelope is not None
        assert agent is not None
        if not expected:
            # The delivery owner changed while the call was under way: the new one has to look for itself.
            owner.ring(self._keys.mailbox(agent.id, lane_of(envelope.priority)))
        elif one.mailbox is not None and entry is None:
            owner.miss(one.mailbox)
        elif one.mailbox is not None and entry is not None:
            owner.accept(
                one.mailbox,
                entry.decode(),
                envelope,
                one.body,
                waiter=one.waiter,
                told=one.told,
                route=one.placement.route,
                now_ms=now_ms,
            )

    async def _watch(self) -> None:
        raise await self.failed


_COUNTED: Final = {
    Way.PARKED: "parked",
    Way.LATER: "parked",
    Way.ENDED: "failed",
    Way.QUARANTINED: "quarantined",
}


def _expires_ms(placement: Placement) -> int | None:
    envelope = placement.envelope
    assert envelope is not None
    return None if envelope.expires_at is None else to_ms(envelope.expires_at)
