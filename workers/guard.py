"""What a worker's routers ask before they put a message into a mailbox: is anything against it?

One guard for all shards of the process. `judge` decides from memory, in a microsecond or so, and never waits;
`run` keeps that memory up to date beside it: it looks into inboxes that may have reached their quota, tells
the gateways and the other routers of full ones and of loops, and hears of theirs.

What is lost when a shard changes its owner: the counts of loops and roots begin anew, and a full inbox takes
`UNSEEN_MESSAGES` more before it is looked into. Trips, and what operators have switched off, stay.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Collection
from itertools import islice
from typing import Final
from uuid import NAMESPACE_URL, uuid5

from msgspec import Raw, Struct

from broker.core.admission import Held, InboxWatch, Quota
from broker.core.barriers import Barriers, Stop, Switches
from broker.core.bounce import AUTOMATIC
from broker.core.loops import TIMES_KEPT, LoopRules, LoopWatch, RootWatch, Sign, alternations
from broker.streams.barriers import BarrierBook, Found
from broker.streams.clock import ServerClock
from broker.streams.ingress import Publisher
from broker.streams.keys import Keys
from broker.streams.link import Link
from broker.telemetry import logs, metrics
from schema.agent import Agent
from schema.codec import encode
from schema.errors import BrokerError
from schema.ids import shard_of
from schema.limits import FULL_INBOXES_MAX, ROOT_MESSAGES_MAX, TRIPS_MAX
from schema.message import LANES, Envelope, Reason
from schema.times import from_ms
from schema.trip import LOOP_TYPE, LoopNotice, Pair, Trip

POLL_S: Final = 0.25
"""How often what others have found is asked for, and full inboxes are looked into."""
RETRY_S: Final = 0.5
FULL_FOR_MS: Final = 5_000
"""A full inbox counts as full for this long at the doors, unless its router says so again."""
FULL_RENEWED_MS: Final = 2_000
FULL_LOOKS_MAX: Final = 64
"""Full inboxes looked into with every poll, those first that have waited longest: each costs six commands.
With more of them than that, one that was emptied is open again the later; of 10,000 after 40 s."""
FULL_RENEWALS_MAX: Final = FULL_INBOXES_MAX // 5
"""Renewed with every poll, a field each. So all that are listed are renewed in time."""
NOTED_WITHIN_MS: Final = 5_000
"""Whoever finds a loop has told both agents by then; else another router does."""
NOTED_UNTIL_MS: Final = 3_600_000
"""A trip older than this is not told of again: that it was not may only have been forgotten."""
LOOKS_AT_ONCE_MAX: Final = 100
INBOXES_WATCHED_MAX: Final = 250_000
"""Inboxes watched, some 200 bytes each; at it all of them are looked into anew."""
WAYS_MAX: Final = 1_000
"""Directions that may be half of a loop whose other way is routed elsewhere; further ones are not told."""
WAY_TOLD_MS: Final = 1_000

_REASONS: Final = {Stop.KILLED: Reason.KILLED, Stop.LOOP: Reason.LOOP}
_STOPPED: Final = {
    reason: metrics.STOPPED.child(reason=reason.value)
    for reason in (Reason.INBOX_FULL, Reason.LOOP, Reason.ROOT_LIMIT, Reason.KILLED)
}


class GuardRules(Struct, frozen=True):
    """What the deployment sets."""

    shards: int
    quota: Quota = Quota()
    loops: LoopRules = LoopRules()
    root_messages_max: int = ROOT_MESSAGES_MAX


class _Way(Struct):
    """One direction between two agents whose other direction is routed by another process."""

    moments_ms: deque[int]
    told_ms: int = 0


class Guard:
    """See the module's docstring."""

    def __init__(
        self,
        link: Link,
        publisher: Publisher,
        clock: ServerClock,
        rules: GuardRules,
        *,
        find_agent: Callable[[str], Agent | None],
    ) -> None:
        self.barriers = Barriers()
        self.routed_here: Callable[[], Collection[int]] = lambda: range(rules.shards)
        """The shards this process routes at the moment."""
        self._link = link
        self._publisher = publisher
        self._clock = clock
        self._rules = rules
        self._find_agent = find_agent
        self._book = BarrierBook(link)
        self._keys = [Keys(shard) for shard in range(rules.shards)]
        self._loops = LoopWatch(rules.loops)
        self._roots = RootWatch(rules.root_messages_max)
        self._watches_loops = rules.loops.is_on
        self._is_whole = True
        """Whether all shards are routed here: then both directions of any pair are seen."""
        self._inboxes: dict[str, InboxWatch] = {}
        self._due: set[str] = set()
        self._full: dict[str, int] = {}
        """Full inboxes, and when the doors were told last; who waits for a look for longest comes first."""
        self._found = Found({}, [])
        self._untold_trips: dict[str, Trip] = {}
        self._untold_roots: set[str] = set()
        self._ways: dict[Pair, _Way] = {}
        self._work = asyncio.Event()

    # --- asked for every message ----------------------------------------------------------------------

    def judge(
        self, envelope: Envelope, agent: Agent, size: int, now_ms: int, *, is_new: bool
    ) -> Reason | None:
        """Return why a message for this agent ends instead of going into its mailbox; None: it goes.

        `size`: of the message, in bytes. `is_new`: it is not judged for a second time.
        """
        recipient, sender = agent.id, envelope.from_agent_id
        if self.barriers.is_any:
            stop = self.barriers.stops(sender, recipient, envelope.root_id)
            if stop is not None:
                return _counted(_REASONS[stop])
        inbox = self._inboxes.get(recipient) or self._watch(agent)
        if inbox.let_in(size) and not self._has_room(recipient, inbox):
            return _counted(Reason.INBOX_FULL)
        if not is_new:
            return None
        if envelope.hop:
            return self._judge_root(envelope.root_id or envelope.id)
        if sender is None or not self._watches_loops or envelope.reply_to is not None or sender == recipient:
            return None
        sign = self._loops.see(envelope, sender, recipient, now_ms)
        if sign is not None:
            self._trip(sign, sender, recipient)
            return _counted(Reason.LOOP)
        if not self._is_whole:
            self._note_way(sender, recipient, now_ms)
        return None

    def _watch(self, agent: Agent) -> InboxWatch:
        if len(self._inboxes) >= INBOXES_WATCHED_MAX:
            self._inboxes.clear()
        inbox = self._inboxes[agent.id] = InboxWatch(self._rules.quota.of(agent))
        return inbox

    def _has_room(self, agent_id: str, inbox: InboxWatch) -> bool:
        if not inbox.is_full and not inbox.is_looking and agent_id not in self._due:
            self._due.add(agent_id)
            self._work.set()
        return inbox.takes_more

    def _judge_root(self, root_id: str) -> Reason | None:
        if self._roots.see(root_id):
            return _counted(Reason.ROOT_LIMIT)
        if not self._is_whole and self._roots.untold(root_id):
            self._untold_roots.add(root_id)
            self._work.set()
        return None

    def _note_way(self, sender: str, recipient: str, now_ms: int) -> None:
        way = self._ways.get((sender, recipient))
        if way is None:
            if not self._loops.is_suspicious(sender, recipient) or len(self._ways) >= WAYS_MAX:
                return
            if shard_of(sender, self._rules.shards) in self.routed_here():
                return
            way = self._ways[sender, recipient] = _Way(deque(maxlen=TIMES_KEPT))
        way.moments_ms.append(now_ms)

    def _trip(self, sign: Sign, sender: str, recipient: str) -> None:
        trip = trip_of(sign, sender, recipient, at_ms=self._clock.now_ms())
        if trip.id not in self._untold_trips and len(self._untold_trips) < TRIPS_MAX:
            self._untold_trips[trip.id] = trip
            self._raise_barriers()
            self._work.set()

    # --- told by others -------------------------------------------------------------------------------

    def begin(self, shard: int) -> None:
        """A shard is routed here from now on: whoever routed it before has filled its inboxes meanwhile."""
        for agent_id in [one for one in self._inboxes if shard_of(one, self._rules.shards) == shard]:
            del self._inboxes[agent_id]

    def switched(self, switches: Switches) -> None:
        """Follow what operators switch off."""
        self.barriers.switch(switches)
        metrics.BARRIERS.child(kind="switch").set(switches.count)

    def agent_changed(self, agent_id: str, agent: Agent | None) -> None:
        """Follow a change in the registry: its quota may be another one."""
        inbox = self._inboxes.get(agent_id)
        if inbox is None:
            return
        if agent is None:
            del self._inboxes[agent_id]
        elif inbox.quota != (quota := self._rules.quota.of(agent)):
            inbox.limit(quota)
            self._due.add(agent_id)
            self._work.set()

    # --- beside ---------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Look, tell and hear until cancelled. Without Redis everything stays as it was."""
        polled_s = 0.0
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout(POLL_S):
                    await self._work.wait()
            except TimeoutError:
                pass
            self._work.clear()
            try:
                await self._tell()
                if loop.time() - polled_s >= POLL_S:
                    await self._poll()
                    polled_s = loop.time()
                await self._look()
            except BrokerError as error:
                logs.warning("guard.failed", reason=error.message)
                await asyncio.sleep(RETRY_S)
            except Exception as error:
                # The top of a worker loop: a bug met here must not end the routers, nor leave them unguarded.
                logs.error("guard.broken", error=error)
                await asyncio.sleep(RETRY_S)

    async def _poll(self) -> None:
        here = self.routed_here()
        self._is_whole = len(here) == self._rules.shards
        found = await self._book.read_changed()
        if found is not None:
            kept = {trip.id for trip in found.trips}
            for trip in self._found.trips:
                if trip.id not in kept:
                    self._loops.forget(trip.from_agent_id, trip.to_agent_id)
            self._found = found
            self._raise_barriers()
        now_ms = self._clock.now_ms()
        for agent_id in [one for one in self._full if shard_of(one, self._rules.shards) not in here]:
            del self._full[agent_id]
        # What another router has noted of inboxes that are routed here now is this one's to renew or to end.
        for agent_id in found.full if found is not None else ():
            if agent_id not in self._full and shard_of(agent_id, self._rules.shards) in here:
                self._full[agent_id] = 0
        self._due.update(islice(self._full, FULL_LOOKS_MAX))
        await self._renew(now_ms)
        await self._note_again(now_ms)
        await self._tell_ways(now_ms)

    async def _renew(self, now_ms: int) -> None:
        """Tell the doors again of inboxes that are full as far as anybody knows: they open after a look."""
        stale = [
            agent_id
            for agent_id, told_ms in self._full.items()
            if now_ms - told_ms >= FULL_RENEWED_MS and agent_id not in self._due
        ][:FULL_RENEWALS_MAX]
        if stale:
            await self._book.fill(dict.fromkeys(stale, now_ms + FULL_FOR_MS))
            self._full.update(dict.fromkeys(stale, now_ms))

    def _raise_barriers(self) -> None:
        trips = {trip.id: trip for trip in (*self._found.trips, *self._untold_trips.values())}
        self.barriers.trip(trips.values())
        metrics.BARRIERS.child(kind="trip").set(len(trips))

    async def _tell(self) -> None:
        for trip in tuple(self._untold_trips.values()):
            if len(self._found.trips) >= TRIPS_MAX:
                break  # Stopped here all the same.
            if await self._book.trip(trip):
                metrics.TRIPS.child(sign=trip.sign).inc()
                logs.warning("guard.tripped", trip=trip.id, sign=trip.sign)
                await self._note(trip)
            self._found.trips.append(trip)
            self._untold_trips.pop(trip.id, None)
        roots, self._untold_roots = self._untold_roots, set()
        counts = {root: count for root in roots if (count := self._roots.untold(root))}
        if counts:
            for root, count in counts.items():
                self._roots.tell(root, count)
            for root, total in (await self._book.tell_roots(counts)).items():
                self._roots.told(root, total)

    async def _note_again(self, now_ms: int) -> None:
        """Tell the agents of trips whose finder may have died, or met a full Redis, before it did. Twice told
        is once told: routers know the notes by their ids."""
        here = self.routed_here()
        for trip in tuple(self._found.unnoted):
            is_due = NOTED_WITHIN_MS <= now_ms - trip.at_ms < NOTED_UNTIL_MS
            if is_due and shard_of(trip.from_agent_id, self._rules.shards) in here:
                try:
                    await self._note(trip)
                except BrokerError as error:
                    # With the next poll. Inboxes must be looked into meanwhile, or no quota would hold.
                    logs.warning("guard.not_noted", trip=trip.id, reason=error.message)
                    return
                self._found.unnoted.remove(trip)

    async def _note(self, trip: Trip) -> None:
        await self._publisher.publish_many(notes_of(trip, self._find_agent))
        await self._book.noted(trip)

    async def _tell_ways(self, now_ms: int) -> None:
        rules = self._rules.loops
        for (sender, recipient), way in tuple(self._ways.items()):
            if now_ms - way.moments_ms[-1] > rules.window_ms:
                del self._ways[sender, recipient]
            elif now_ms - way.told_ms >= WAY_TOLD_MS and way.moments_ms[-1] > way.told_ms:
                way.told_ms = now_ms
                others = await self._book.tell_way(
                    sender, recipient, list(way.moments_ms), for_ms=rules.window_ms
                )
                turns = alternations(list(way.moments_ms), others, since_ms=now_ms - rules.window_ms)
                if turns >= rules.alternations:
                    self._trip(Sign.ALTERNATION, sender, recipient)
                    del self._ways[sender, recipient]

    async def _look(self) -> None:
        due, self._due = list(self._due), set()
        for start in range(0, len(due), LOOKS_AT_ONCE_MAX):
            await self._look_into(due[start : start + LOOKS_AT_ONCE_MAX])
        metrics.BARRIERS.child(kind="inbox").set(len(self._full))

    async def _look_into(self, agents: list[str]) -> None:
        connection = await self._link.get()  # First: what begins to look has to come to its end.
        inboxes: list[tuple[str, InboxWatch]] = []
        commands: list[tuple[str, ...]] = []
        opened: list[str] = []
        for agent_id in agents:
            agent = self._find_agent(agent_id)
            if agent is None:
                if self._full.pop(agent_id, None) is not None:
                    opened.append(agent_id)
                continue
            inbox = self._inboxes.get(agent_id) or self._watch(agent)
            inbox.looking()
            inboxes.append((agent_id, inbox))
            keys = self._keys[shard_of(agent_id, self._rules.shards)]
            for lane in LANES:
                mailbox = keys.mailbox(agent_id, lane)
                commands += [("XLEN", mailbox), ("MEMORY", "USAGE", mailbox)]
        try:
            replies = await connection.send_many(commands)
        finally:
            for _, inbox in inboxes:
                inbox.is_looking = False
        now_ms = self._clock.now_ms()
        filled: dict[str, int] = {}
        for number, (agent_id, inbox) in enumerate(inboxes):
            sizes = replies[number * 2 * len(LANES) : (number + 1) * 2 * len(LANES)]
            inbox.looked(Held(sum(sizes[::2]), sum(size or 0 for size in sizes[1::2])))
            told_ms = self._full.pop(agent_id, None)
            if not inbox.is_full:
                if told_ms is not None:
                    opened.append(agent_id)
            elif told_ms is not None or len(self._full) < FULL_INBOXES_MAX:
                if told_ms is None or now_ms - told_ms >= FULL_RENEWED_MS:
                    told_ms = now_ms
                    filled[agent_id] = now_ms + FULL_FOR_MS
                self._full[agent_id] = told_ms
        if filled or opened:
            await self._book.fill(filled, opened)


def _counted(reason: Reason) -> Reason:
    _STOPPED[reason].inc()
    return reason


def trip_of(sign: Sign, sender: str, recipient: str, *, at_ms: int) -> Trip:
    """Return the trip of a pair; whoever finds the same loop makes one with the same id."""
    both = sign is Sign.ALTERNATION
    if both and recipient < sender:
        sender, recipient = recipient, sender
    trip_id = str(uuid5(NAMESPACE_URL, f"agent-broker:trip:{sign.value}:{sender}:{recipient}"))
    return Trip(
        id=trip_id, sign=sign.value, from_agent_id=sender, to_agent_id=recipient, both=both, at_ms=at_ms
    )


def notes_of(trip: Trip, find_agent: Callable[[str], Agent | None]) -> list[Envelope]:
    """Return the notes to the two agents of a trip; from nobody, so that nothing ever answers them."""
    content = LoopNotice(
        trip_id=trip.id,
        sign=trip.sign,
        from_agent_id=trip.from_agent_id,
        to_agent_id=trip.to_agent_id,
        both_ways=trip.both,
    )
    return [
        Envelope(
            id=str(uuid5(NAMESPACE_URL, f"agent-broker:trip:{trip.id}:{trip.at_ms}:{agent_id}")),
            to_agent_id=agent_id,
            message_type=LOOP_TYPE,
            content=Raw(encode(content)),
            metadata=AUTOMATIC,
            created_at=from_ms(trip.at_ms),
        )
        for agent_id in (trip.from_agent_id, trip.to_agent_id)
        if find_agent(agent_id) is not None
    ]
