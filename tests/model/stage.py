"""The parts of the broker that own something, one step at a time: each as real as its work is.

Routing, un-parking, waking, acknowledging, reading and cutting the ledger are the product's own objects, on a
real Redis. Only the delivery owner is a plain one of ours (its memory is a matter of time and sockets; see
`courier`): it reads, settles, takes over and expires by the product's scripts. A `seat` is what one process
holds for one trade of one shard; whoever dies loses everything but what Redis has.
"""

import asyncio
from collections.abc import Coroutine
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, TypeVar

import redis
from cluster import client_of, close
from ledger_events import Model as Tables
from msgspec import Raw

from broker.core.directory import Directory
from broker.core.fold import fold
from broker.core.retry import Verdict, next_attempt
from broker.core.routing import Quality
from broker.gateway.status import drop_copy
from broker.streams.acknowledgement import Acknowledged, Acknowledger
from broker.streams.clock import ServerClock
from broker.streams.connection import Argument, Connection, open_connection
from broker.streams.ingress import Publisher
from broker.streams.keys import Keys, mailbox_owner
from broker.streams.lanes import LaneReader
from broker.streams.ledger import LedgerReader
from broker.streams.link import Link
from broker.streams.mailbox import Mailboxes
from broker.streams.ownership import Lease
from broker.streams.scripts import EXPIRE, LEASE, PUT_BACK, TAKE_DUE, VACATE, Script
from broker.streams.settlement import Settlement, call_settle
from model.courier import Courier, Hands, Held
from model.wire import Crash, Wire
from schema.agent import Agent
from schema.codec import decode_stored_envelope, encode, options_of
from schema.delivery import Attempt, AttemptStatus
from schema.errors import BrokerError, StreamsUnavailable
from schema.ids import shard_of
from schema.ledger import Event, EventKind
from schema.message import LANES, Envelope, Reason, Status
from schema.times import to_ms
from workers.delivery.collector import UNDER_WAY
from workers.delivery.delivery import Delivery
from workers.keeping.schedule import Schedule
from workers.placing import Placer
from workers.router import Router, RouterRules
from workers.unparking import Unparking

T = TypeVar("T")
SHARDS = 2
WINDOW_MS = 120_000
TRADES = ("route", "deliver", "record", "keep")
FAR_MS = 2 * 3_600_000
"""Beyond every expiry of the model, which is an hour on."""


class Loads:
    """Nobody is busy and everybody is good."""

    def outstanding(self, agent_id: str) -> int:
        return 0

    def quality(self, agent_id: str, capability: str) -> Quality:
        return Quality()


@dataclass
class Seat:
    """A trade that needs no memory between two steps."""

    wire: Wire
    lease: str


class Stage:
    """A deployment of two shards, emptied; its loop runs only while a step is under way."""

    def __init__(self, url: str) -> None:
        self.raw: redis.Redis = client_of(url)
        self.keys = [Keys(shard) for shard in range(SHARDS)]
        self.directory = Directory(silent_after_ms=10 * FAR_MS)
        self.tables = Tables()
        self.chance = 0.0
        self.tokens: dict[tuple[str, int], list[str]] = {}
        """Every lease there ever was of a trade and shard; the last one counts."""
        self._loop = asyncio.new_event_loop()
        self.raw.flushall()
        self.run(self._open(url))

    def run(self, step: Coroutine[Any, Any, T]) -> T:
        return self._loop.run_until_complete(asyncio.wait_for(step, 30))

    def close(self) -> None:
        self.run(self._close())
        self._loop.close()
        close(self.raw)

    async def _open(self, url: str) -> None:
        self._clock = ServerClock()
        self._inner: Connection = await open_connection(url, name="model")
        self._link = Link(url, name="model")
        self._publisher = Publisher(url, shards=SHARDS)
        self.mailboxes = Mailboxes(self._link, shards=SHARDS)
        self._acknowledger = Acknowledger(self._link, shards=SHARDS, now_ms=self._now_ms)
        self.routers: list[Router] = []
        self.readers: list[LaneReader] = []
        self.couriers: list[Courier] = []
        self.recorders: list[Seat] = []
        self.keepers: list[Seat] = []
        for shard in range(SHARDS):
            for seats in (self.routers, self.readers, self.couriers, self.recorders, self.keepers):
                seats.append(None)  # type: ignore[attr-defined]  # taken in the next line
            for trade in TRADES:
                await self._take(trade, shard)

    async def _close(self) -> None:
        await self._publisher.close()
        await self._link.close()
        await self._inner.close()

    async def _now_ms(self) -> int:
        return self._clock.now_ms()

    # --- owners ---------------------------------------------------------------------------------------

    def take_over(self, trade: str, shard: int, crash: Crash = Crash.NONE, calls_before: int = 0) -> None:
        """Let the owner of a trade die, and another take its place; a delivery owner may die of that."""
        self.run(self._take(trade, shard, crash, calls_before))

    async def _take(self, trade: str, shard: int, crash: Crash = Crash.NONE, calls_before: int = 0) -> None:
        keys = self.keys[shard]
        self.raw.delete(keys.owner(trade))
        names = (keys.owner(trade), keys.fence(trade))
        value: bytes = await self._inner.evaluate(LEASE, names, "take", "model", 600_000)
        token, wire = value.decode(), Wire(self._inner)
        self.tokens.setdefault((trade, shard), []).append(token)
        match trade:
            case "route":
                await self._take_routing(shard, wire, Lease(shard, trade, token, float("inf")))
            case "deliver":
                wire.crash, wire.calls_before = crash, calls_before
                self.couriers[shard] = Courier(wire, token, keys, self.directory, self._clock.now_ms)
                await self._begin_delivery(shard)
            case "record":
                self.recorders[shard] = Seat(wire, token)
            case _:
                self.keepers[shard] = Seat(wire, token)

    async def _begin_delivery(self, shard: int) -> None:
        courier, keys = self.couriers[shard], self.keys[shard]
        left = self.raw.zrangebyscore(keys.due, UNDER_WAY, UNDER_WAY)
        try:
            await courier.shelver.take_over()
            names = (keys.owner("deliver"), keys.due)
            await courier.wire.evaluate(PUT_BACK, names, courier.lease, 0, *left)
        except StreamsUnavailable:
            await self._take("deliver", shard)
        courier.wire.crash, courier.wire.calls_before = Crash.NONE, 0

    def _delivery(self, shard: int) -> Delivery | None:
        """Return the delivery owner, where it is in the router's process."""
        courier = self.couriers[shard]
        if courier.hands is Hands.APART:
            return None
        return courier  # type: ignore[return-value]  # all a router asks of one

    async def _take_routing(self, shard: int, wire: Wire, lease: Lease) -> None:
        router = Router(
            wire,
            self.keys[shard],
            lease,
            placer=Placer(self.directory, Loads(), shard=shard, shards=SHARDS, chance=lambda: self.chance),
            refresh=self._refresh,
            publisher=self._publisher,
            clock=self._clock,
            rules=RouterRules(shards=SHARDS, window_ms=WINDOW_MS),
            delivery=lambda: self._delivery(shard),
        )
        await router._recall_choices()
        self.routers[shard], self.readers[shard] = router, LaneReader(wire, self.keys[shard])

    async def _refresh(self) -> None:
        """Everybody is known."""

    # --- publishing and routing -----------------------------------------------------------------------

    def publish(self, envelope: Envelope) -> None:
        self.run(self._publisher.publish(envelope))

    def route(
        self, shard: int, room: int, crash: Crash, hands: Hands = Hands.DIRECT, *, overtaken: bool = False
    ) -> list[tuple[int, int]]:
        """Route up to `room` entries of a shard; return, per lane, how many waited before and were taken.
        `overtaken`: another takes the delivery over while the call is on its way."""
        return self.run(self._route(shard, room, crash, hands, overtaken))

    async def _route(
        self, shard: int, room: int, crash: Crash, hands: Hands, overtaken: bool
    ) -> list[tuple[int, int]]:
        router, reader = self.routers[shard], self.readers[shard]
        reply = await self._inner.send(
            "XREAD", "STREAMS", *reader._key_of.values(), *(reader._cursors[lane] for lane in LANES)
        )
        for stream in reply or ():
            for entry in reader._parse(stream):
                router._buffers[entry.lane].append(entry)
        waiting = [len(router._buffers[lane]) for lane in LANES]
        if not any(waiting):
            return []
        entries = [entry for _, entry in router._weights.take(router._buffers, room)]
        wire = router._connection
        assert isinstance(wire, Wire)
        wire.crash = crash
        wire.overtaken_by = (lambda: self._take("deliver", shard)) if overtaken else None
        self.couriers[shard].hands = hands
        router._calls += 1
        try:
            await router._route_batch(entries)
            while router._calls:  # noqa: ASYNC110  # its answer comes by a callback
                await asyncio.sleep(0)
            died = router.failed.done()
        except StreamsUnavailable:  # It died on a call it waited for: writing down a choice.
            if crash is Crash.NONE:
                raise
            died = True
        self.couriers[shard].hands = Hands.APART
        if died:
            await self._take("route", shard)
            if hands is not Hands.APART and crash is not Crash.NONE:
                # They share a process, and a connection.
                await self._take("deliver", shard)
        wire.crash, wire.overtaken_by = Crash.NONE, None
        return [
            (before, sum(entry.lane is lane for entry in entries))
            for lane, before in zip(LANES, waiting, strict=True)
        ]

    def unpark(self, shard: int) -> None:
        self.run(self._unpark(shard))

    async def _unpark(self, shard: int) -> None:
        lease = Lease(shard, "route", self.tokens["route", shard][-1], float("inf"))
        await Unparking(self._inner, self.keys[shard], lease, self.directory, self._clock)._look()

    # --- delivery -------------------------------------------------------------------------------------

    def postable(self, shard: int) -> list[tuple[str, str]]:
        """Return what a courier may post: what was handed to it, and entries of endpoints' mailboxes that
        nobody has in hand."""
        keys, courier = self.keys[shard], self.couriers[shard]
        active = sorted(member.decode() for member in self.raw.zrange(keys.active, 0, -1))
        pipe = self.raw.pipeline(transaction=False)
        pipe.zrange(keys.due, 0, -1)
        for mailbox in active:
            pipe.xrange(mailbox)
        due, *found = pipe.execute()
        in_hand = {member.decode().rpartition("|")[0] for member in due} | {
            *courier.hand,
            *courier.in_flight,
            *courier.expiring,
        }
        places = [
            (box, entry.decode()) for box, entries in zip(active, found, strict=True) for entry, _ in entries
        ]
        handed = [(courier.hand[place].mailbox, courier.hand[place].entry) for place in sorted(courier.hand)]
        return handed + [(box, entry) for box, entry in places if f"{box}|{entry}" not in in_hand]

    def post(self, shard: int, mailbox: str, entry: str) -> None:
        courier = self.couriers[shard]
        for place in (entry, f"{mailbox}|{entry}"):
            if place in courier.hand:
                courier.in_flight[place] = courier.hand.pop(place)
                return
        [(_, fields)] = self.raw.xrange(mailbox, entry, entry)
        self.couriers[shard].in_flight[f"{mailbox}|{entry}"] = Held(mailbox, entry, fields[b"m"])

    def tell(self, shard: int, place: str, crash: Crash) -> None:
        """Tell the record of what was handed over directly; it is put into its mailbox first."""
        self.run(self._tell(shard, place, crash))

    async def _tell(self, shard: int, place: str, crash: Crash) -> None:
        courier, keys = self.couriers[shard], self.keys[shard]
        where = courier.hand if place in courier.hand else courier.in_flight
        held = where.pop(place)
        courier.wire.crash = crash
        if not await courier.shelve(held):
            await self._take("deliver", shard)
            return
        where[held.place] = held
        settlement = Settlement(events=[encode(_told_event(held, self._clock.now_ms()))])
        await self._settle(courier, keys, settlement)

    def give_back(self, shard: int, place: str, crash: Crash) -> None:
        """Put what was handed over directly into its mailbox, and forget it."""
        self.run(self._give_back(shard, place, crash))

    async def _give_back(self, shard: int, place: str, crash: Crash) -> None:
        courier = self.couriers[shard]
        courier.wire.crash = crash
        if not await courier.give_back(courier.hand.pop(place)):
            await self._take("deliver", shard)

    def answer(
        self,
        shard: int,
        place: str,
        verdict: Verdict,
        agents: dict[str, Agent],
        crash: Crash,
        calls_before: int = 0,
    ) -> None:
        """Settle what an attempt came to."""
        self.run(self._answer(shard, place, verdict, agents, crash, calls_before))

    async def _answer(
        self,
        shard: int,
        place: str,
        verdict: Verdict,
        agents: dict[str, Agent],
        crash: Crash,
        calls_before: int,
    ) -> None:
        courier, keys, now_ms = self.couriers[shard], self.keys[shard], self._clock.now_ms()
        held = courier.in_flight.pop(place)
        envelope, number = decode_stored_envelope(held.body), held.attempts + 1
        decision = next_attempt(
            attempt=number,
            verdict=verdict,
            retry_after=None,
            schedule=agents[mailbox_owner(held.mailbox)[0]].retry_schedule,
            options=options_of(envelope),
            expires_ms=None if envelope.expires_at is None else to_ms(envelope.expires_at),
            now_ms=now_ms,
            chance=self.chance,
        )
        courier.wire.crash = crash
        if held.is_direct and decision.deliver_again_ms is not None:
            courier.wire.calls_before = calls_before
            if not await courier.shelve(held):
                await self._take("deliver", shard)
                return
        settlement = Settlement(over=[held.due_member] if held.due_member else [])
        settlement.events.append(
            encode(_event_of(held, envelope, verdict, decision.reason, decision.deliver_again_ms, now_ms))
        )
        if held.is_direct:
            settlement.direct.append(held.entry)
        elif decision.deliver_again_ms is None:
            settlement.finished[held.mailbox] = [held.entry]
            if envelope.expires_at is not None:
                settlement.forget.append(held.place)
        else:
            settlement.retries[f"{held.place}|{number}"] = 1  # when it is due is the model's to say: at once
        await self._settle(courier, keys, settlement)
        courier.wire.crash, courier.wire.calls_before = Crash.NONE, 0

    async def _settle(self, courier: Courier, keys: Keys, settlement: Settlement) -> None:
        answered: asyncio.Future[Any] = self._loop.create_future()
        call_settle(courier.wire, keys, settlement, owner=courier.lease, on_reply=answered.set_result)
        if isinstance(await answered, BrokerError):
            await self._take("deliver", keys.shard)

    def take_due(self, shard: int) -> None:
        self.run(self._take_due(shard))

    async def _take_due(self, shard: int) -> None:
        courier, keys = self.couriers[shard], self.keys[shard]
        names = (keys.owner("deliver"), keys.due)
        members, _, _ = await courier.wire.evaluate(TAKE_DUE, names, courier.lease, 2, UNDER_WAY)
        for member in members:
            mailbox, entry, attempts = member.decode().split("|")
            found = self.raw.xrange(mailbox, entry, entry)
            if found and f"{mailbox}|{entry}" not in courier.expiring:
                held = Held(mailbox, entry, found[0][1][b"m"], int(attempts), member.decode())
                courier.in_flight[f"{mailbox}|{entry}"] = held
            elif found:
                await courier.wire.evaluate(PUT_BACK, names, courier.lease, 0, member)
            else:
                self.raw.zrem(keys.due, member)

    def expire(self, shard: int) -> None:
        """Let the time of everything come that has one and is not in flight.

        Looking and ending are two steps, between which others go on: what is looked at here is ended when
        this is called next.
        """
        self.run(self._expire(shard))
        self._look_for_expired(shard)

    async def _expire(self, shard: int) -> None:
        courier, keys = self.couriers[shard], self.keys[shard]
        looked_at, courier.expiring = courier.expiring, {}
        streams, arguments = [], [courier.lease]
        for place, event in looked_at.items():
            stream, _, entry = place.rpartition("|")
            streams.append(stream)
            arguments += (entry, event)
        names = (keys.owner("deliver"), keys.ledger, keys.expiry, *streams)
        await courier.wire.evaluate(EXPIRE, names, *arguments)

    def _look_for_expired(self, shard: int) -> None:
        courier, now_ms = self.couriers[shard], self._clock.now_ms()
        for member in self.raw.zrangebyscore(self.keys[shard].expiry, "-inf", now_ms + FAR_MS):
            place = member.decode()
            stream, _, entry = place.rpartition("|")
            if place not in courier.in_flight:
                found = self.raw.xrange(stream, entry, entry)
                courier.expiring[place] = _expired(found[0][1][b"m"], stream, now_ms) if found else ""

    def vacate(self, shard: int) -> None:
        courier, keys = self.couriers[shard], self.keys[shard]
        mailboxes = [key.decode() for key in self.raw.zrange(keys.active, 0, -1)]
        self.run(
            courier.wire.evaluate(VACATE, (keys.owner("deliver"), keys.active, *mailboxes), courier.lease)
        )

    # --- pullers, keepers, recorders ------------------------------------------------------------------

    def acknowledge(self, agent_id: str, one: Acknowledged) -> bool:
        [there] = self.run(self._acknowledger.acknowledge(agent_id, [one]))
        return there

    def time_comes(self, shard: int) -> None:
        """Let the time of everything scheduled come, and the keeper see it."""
        keys, keeper = self.keys[shard], self.keepers[shard]
        if members := self.raw.zrange(keys.later, 0, -1):
            self.raw.zadd(keys.later, dict.fromkeys(members, 1))
        lease = Lease(shard, "keep", keeper.lease, float("inf"))
        self.run(Schedule(keys, lease).look(keeper.wire))

    def record(self, shard: int, count: int, crash: Crash) -> None:
        """Fold some of the ledger into the tables, and cut it."""
        self.run(self._record(shard, count, crash))

    async def _record(self, shard: int, count: int, crash: Crash) -> None:
        seat = self.recorders[shard]
        ledger = LedgerReader(seat.wire, shards=SHARDS)
        entries = await ledger.read(shard, "0-0", count=count)
        if not entries:
            return
        self.tables.write(fold([event for entry in entries for event in entry.events], shard=shard))
        seat.wire.crash = crash
        try:
            await ledger.cut(shard, entries[-1].id, seat.lease)
        except BrokerError:
            await self._take("record", shard)

    def drop(self, message_id: str) -> None:
        """Drop the copies of a message that has ended on record, as the gateway does."""
        row = self.tables.messages[message_id]
        envelope = row.message
        assert envelope is not None
        wanted = envelope.requirements if isinstance(envelope.requirements, list) else []
        view = SimpleNamespace(
            id=row.id,
            status=row.status.value,
            to_agent_id=row.to,
            priority=envelope.priority,
            message_type=envelope.message_type,
            deliver_at=envelope.deliver_at if row.round == 0 and envelope.deliver_at else None,
        )
        stored = SimpleNamespace(
            view=view, mailbox_entry=row.mailbox_entry, round=row.round, requirements=tuple(wanted)
        )
        services = SimpleNamespace(mailboxes=self.mailboxes)
        self.run(drop_copy(services, stored))  # type: ignore[arg-type]  # all it asks of either

    async def evaluate(self, script: Script, keys: list[Argument], arguments: list[Argument]) -> Any:
        """Run a script, whoever's it is. Raises: Fenced."""
        return await self._inner.evaluate(script, keys, *arguments)

    def marked(self) -> tuple[set[str], set[str]]:
        """Return what is on the active set, and what on the set of what expires."""
        pipe = self.raw.pipeline(transaction=False)
        for name in ("active", "expiry"):
            for keys in self.keys:
                pipe.zrange(getattr(keys, name), 0, -1)
        found = [{member.decode() for member in members} for members in pipe.execute()]
        return set().union(*found[:SHARDS]), set().union(*found[SHARDS:])

    def todo(self) -> dict[str, list[int]]:
        """Return, by what there is to do, the shards that have something of it."""
        pipe = self.raw.pipeline(transaction=False)
        for keys in self.keys:
            for what in ("due", "later", "expiry", "active"):
                pipe.zcard(getattr(keys, what))
            pipe.hlen(keys.parked)
            pipe.hlen(keys.direct)
            for stream in (keys.ledger, *keys.ingress.values()):
                pipe.xlen(stream)
        names = ("due", "later", "expiry", "active", "parked", "handed", "ledger", *("ingress",) * len(LANES))
        found: dict[str, list[int]] = {name: [] for name in names}
        for place, count in enumerate(pipe.execute()):
            shard, name = place // len(names), names[place % len(names)]
            if count and shard not in found[name]:
                found[name].append(shard)
        return found

    def everything(self) -> dict[bytes, bytes | None]:
        """Return all there is in Redis, to compare."""
        keys = sorted(self.raw.keys("*"))
        pipe = self.raw.pipeline(transaction=False)
        for key in keys:
            pipe.dump(key)
        return dict(zip(keys, pipe.execute(), strict=True))


def shard_number(agent_id: str) -> int:
    return shard_of(agent_id, SHARDS)


def _event_of(
    held: Held, envelope: Envelope, verdict: Verdict, reason: Reason | None, again_ms: int | None, now_ms: int
) -> Event:
    number = envelope.round if isinstance(envelope.round, int) else 0
    good = verdict is Verdict.DELIVERED
    status = Status.DELIVERED if good else Status.PENDING
    if not good and again_ms is None:
        status = Status.EXPIRED if reason is Reason.EXPIRED else Status.FAILED
    return Event(
        kind=EventKind.SETTLED if again_ms is None else EventKind.ATTEMPTED,
        id=envelope.id,
        at_ms=now_ms,
        message=Raw(held.body),
        to=mailbox_owner(held.mailbox)[0],
        status=status,
        reason=None if reason is None else reason.value,
        next_attempt_ms=again_ms,
        mailbox_entry=None if held.is_direct else held.entry,
        round=number,
        attempt=Attempt(
            number=held.attempts + 1,
            status=AttemptStatus.SUCCESS if good else AttemptStatus.FAILED,
            attempted_ms=now_ms,
            round=number,
        ),
    )


def _told_event(held: Held, now_ms: int) -> Event:
    envelope = decode_stored_envelope(held.body)
    return Event(
        kind=EventKind.ROUTED,
        id=envelope.id,
        at_ms=now_ms,
        message=Raw(held.body),
        to=mailbox_owner(held.mailbox)[0],
        status=Status.PENDING,
        mailbox_entry=held.entry,
        round=envelope.round if isinstance(envelope.round, int) else 0,
    )


def _expired(body: bytes, stream: str, now_ms: int) -> str:
    envelope = decode_stored_envelope(body)
    to = mailbox_owner(stream)[0] if ":inbox:" in stream else None
    event = encode(
        Event(
            kind=EventKind.SETTLED,
            id=envelope.id,
            at_ms=now_ms,
            message=Raw(body),
            to=to,
            status=Status.EXPIRED,
            reason=Reason.EXPIRED.value,
        )
    )
    return event.decode()
