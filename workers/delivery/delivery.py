"""The delivery trade of one shard: dispatches what lies in the mailboxes, and settles what came of it.

Two ways in. *Direct*: what the same process has just routed into a mailbox that memory is level with is
posted without reading it back (`accept`). *Collect*: everything else is read back by the collector. Each
endpoint has its own bound of requests in flight and its own breaker; the shard has a quota, so a slow
endpoint only ever uses its own share.

One connection carries all commands of the shard, and replies are handled as they are parsed; that is what the
rules in `items` rest on. After an error of that connection, or a lost lease, `failed` resolves and the owner
throws this object away: nothing here survives a doubt about what Redis holds.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from msgspec import UNSET, Struct

from broker.core.breaker import Breaker, BreakerState
from broker.streams.clock import ServerClock
from broker.streams.connection import Connection, Reply
from broker.streams.keys import Keys
from broker.streams.ownership import Lease
from broker.streams.scripts import VACATE
from broker.transport.client import Answer, Deadlines, Failure, PushClient
from schema.agent import Agent
from schema.errors import BrokerError, StreamsFull
from schema.limits import SHARD_IN_FLIGHT_MAX
from schema.message import Envelope, Lane, Reason, Status
from workers.delivery.collector import Collector
from workers.delivery.endpoint import Endpoint
from workers.delivery.expiry import Expiry
from workers.delivery.items import Item, Mailbox
from workers.delivery.mailroom import Mailroom
from workers.delivery.newcomers import Newcomers
from workers.delivery.outcome import Outcome, announced, conclude, finished
from workers.delivery.replies import Replies
from workers.delivery.settler import Settler
from workers.delivery.stats import DeliveryStats
from workers.delivery.troubled import Troubled

TICK_S: Final = 0.02
ANNOUNCE_MS: Final = 200
ANNOUNCE_WAITED_MS: Final = 20
"""What is not settled after this long is told to the record; sooner where somebody waits for that."""
ANNOUNCE_BATCH_MAX: Final = 128
VACATE_BATCH_MAX: Final = 128
VACATE_TICKS: Final = 12
"""Ticks between two looks for empty mailboxes; one that found very many is followed by another at once, or
traffic that goes round a very large fleet would leave more behind than is cleared."""
ACTIVATE_S: Final = 0.5
EXPIRY_S: Final = 0.5
DUE_IDLE_S: Final = 0.5
TIMEOUT_S_MAX: Final = 300.0


class DeliveryRules(Struct, frozen=True):
    """What the deployment sets. `scale` shrinks retry and breaker times (tests)."""

    deadlines: Deadlines
    quota: int = SHARD_IN_FLIGHT_MAX
    scale: float = 1.0


class Delivery:
    """Owns the mailboxes of one shard while its lease lasts."""

    def __init__(
        self,
        connection: Connection,
        keys: Keys,
        lease: Lease,
        *,
        client: PushClient,
        clock: ServerClock,
        find_agent: Callable[[str], Agent | None],
        rules: DeliveryRules,
        stats: DeliveryStats,
        replies: Replies,
    ) -> None:
        self.lease = lease
        self.stats = stats
        self.in_flight = 0
        self.is_ready = False
        """Whether the take-over is complete; before that nothing is posted straight from routing."""
        self.failed: asyncio.Future[BrokerError] = asyncio.get_running_loop().create_future()
        self._connection = connection
        self._keys = keys
        self._client = client
        self._clock = clock
        self._rules = rules
        self._replies = replies
        self.room = Mailroom(
            keys,
            find_agent=find_agent,
            make_breaker=partial(Breaker, scale=rules.scale),
            now_ms=clock.now_ms,
        )
        self._collector = Collector(
            connection, keys, self.room, hold=self._hold, now_ms=clock.now_ms, on_error=self._fail
        )
        self._expiry = Expiry(connection, keys, self.room)
        self._settler = Settler(
            connection, keys, owner=self._owner, on_settled=self._settled, on_error=self._fail
        )
        self._newcomers = Newcomers(connection, found=self._found, on_error=self._fail)
        self._ready: deque[Endpoint] = deque()
        self._troubled = Troubled()
        self._unannounced: deque[Item] = deque()
        self._waited: deque[Item] = deque()
        self._due_sooner = asyncio.Event()
        self._relieved = asyncio.Event()
        self._quiet = asyncio.Event()
        self._quiet.set()
        self._stopping = False
        self._replying = 0
        """Answers that carry a reply which is not published yet; they are settled after it."""
        self._ticks = 0
        self._more_vacant = False

    # --- the trade ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Take over the shard and serve it until cancelled or failed. Raises: BrokerError."""
        await self._collector.take_over(self._owner())
        self.is_ready = True
        self._collect()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._tick())
            group.create_task(self._take_due())
            group.create_task(self._expire())
            group.create_task(self._watch())

    async def drain(self) -> None:
        """Take nothing new, let what is in flight finish, settle it. The caller bounds the wait."""
        self._stopping = True
        await self._quiet.wait()
        await self._settler.drain()

    def close(self) -> None:
        """Stop. Results that still come are dropped: whoever owns the shard next sends those again."""
        self._stopping = True
        self._relieved.set()
        self._settler.close()
        if not self.failed.done():
            self.failed.cancel()

    # --- ways in --------------------------------------------------------------------------------------

    def expect(self, agent: Agent, lane: Lane) -> Mailbox | None:
        """Return the mailbox a route call is about to put a message in; None for an agent that pulls.

        The caller follows with `accept` or `miss`, once, when the call has been answered.
        """
        mailbox = self.room.mailbox_of(agent.id, lane)
        if mailbox is not None:
            mailbox.coming += 1
        return mailbox

    def takes_directly(self, mailbox: Mailbox) -> bool:
        """Tell whether a message routed to this mailbox now would be posted from memory."""
        return self.is_ready and not mailbox.behind and not self._stopping and self.room.has_room(mailbox)

    def miss(self, mailbox: Mailbox) -> None:
        """Note that what was expected was a duplicate."""
        self.room.came(mailbox)

    def accept(
        self,
        mailbox: Mailbox,
        entry: str,
        envelope: Envelope,
        body: bytes,
        *,
        waiter: str = "",
        told: bool = False,
        route: bytes | None = None,
        now_ms: int,
    ) -> None:
        """Take what was just routed into a mailbox: into memory where that is level with it, else later.

        `told`: the route call has already written its event.
        """
        mailbox.coming -= 1
        if mailbox.closed or not self.takes_directly(mailbox):
            if not told:
                item = Item(mailbox, entry, envelope, body, waiter)
                item.route = route
                self._settler.tell(announced(item, now_ms=now_ms))
            if not mailbox.closed:
                self.room.fall_behind(mailbox)
                self._collect()
            return
        mailbox.cursor = entry
        item = Item(mailbox, entry, envelope, body, waiter)
        item.route, item.announced = route, told
        self._hold(item, now_ms)
        self._pump(mailbox.endpoint, now_ms)

    def ring(self, key: str) -> None:
        """Look into a mailbox: a router in another process says that something came."""
        if self._collector.ring(key) is not None:
            self._collect()

    def drop(self, place: str) -> None:
        """Let go of an entry that was taken out of its mailbox, where it is still to be posted: its message
        has ended elsewhere, and that is on record."""
        key, _, entry = place.rpartition("|")
        mailbox = self.room.mailboxes.get(key)
        item = None if mailbox is None else self.room.take_out(mailbox, entry)
        if item is None:
            return
        item.announced = True
        if item.due_taken:
            self.room.retrying.discard(item.place)
            self._connection.call(("ZREM", self._keys.due, item.due_member), self._deactivated)
        self.room.release(item.mailbox)

    async def sweep(self) -> None:
        """Look at everything on the active set anew; meanwhile nothing is posted straight from routing."""
        ready, self.is_ready = self.is_ready, False
        await self._collector.sweep()
        if ready:
            self.is_ready = True
            self._collect()

    @property
    def is_saturated(self) -> bool:
        """Tell whether endpoints with room wait for the shard's quota: more would only queue."""
        return len(self._ready) > 0 and self.in_flight >= self._rules.quota

    async def relief(self) -> None:
        """Wait until the quota has room again."""
        while self.is_saturated and not self._stopping:
            self._relieved.clear()
            await self._relieved.wait()

    def outstanding(self, agent_id: str) -> int:
        """Return how many messages of an agent are not finished, as far as memory knows."""
        endpoint = self.room.endpoints.get(agent_id)
        return 0 if endpoint is None else endpoint.outstanding

    def agent_changed(self, agent_id: str, agent: Agent | None) -> None:
        """Follow a change in the registry; an agent with a new endpoint gets what waited for it, one that is
        paused, disabled or gone nothing more."""
        endpoint = self.room.endpoints.get(agent_id)
        if endpoint is not None and (agent is None or not agent.is_pushed_to):
            now_ms = self._clock.now_ms()
            self._collector.give_back(self.room.abandon(endpoint), self._owner(), due_ms=now_ms)
        if agent is None:
            return  # the keeper returns what lies in its mailboxes to the senders
        if agent.endpoint is None:
            # It pulls from now on: nobody serves its mailboxes, and who empties one may remove it.
            mailboxes = (self._keys.mailbox(agent_id, lane) for lane in Lane)
            self._connection.call(("ZREM", self._keys.active, *mailboxes), self._deactivated)
        elif not agent.is_pushed_to:
            return  # what waits stays on the active set, for when it is active again
        elif endpoint is None:
            keys = [self._keys.mailbox(agent_id, lane) for lane in Lane]
            self._newcomers.look(keys, now_ms=self._clock.now_ms())
        else:
            endpoint.update(agent)
            self._pump(endpoint, self._clock.now_ms())

    def _found(self, keys: Sequence[str], again: bool) -> None:
        """Serve what was found of an agent with a new endpoint; by then some of it may be served already."""
        if self.room.is_pushed_to(keys[0]):
            self._look_into([key for key in keys if not (again and key in self.room.mailboxes)])

    def _look_into(self, keys: list[str]) -> None:
        """Look into mailboxes nobody has served yet.

        On the active set first: memory takes what it looks into for active, so nothing that is routed there
        later would put it on the set, and the next owner would never find it. Empty ones are vacated.
        """
        if keys:
            self._activate(keys)
        for key in keys:
            self.ring(key)

    def _activate(self, keys: list[str]) -> None:
        if not self.failed.done():
            members = [part for key in keys for part in (self._clock.now_ms(), key)]
            command = ("ZADD", self._keys.active, "NX", *members)
            self._connection.call(command, partial(self._activated, keys))

    def _deactivated(self, reply: Reply) -> None:
        if isinstance(reply, BrokerError):
            self._fail(reply)

    def _activated(self, keys: list[str], reply: Reply) -> None:
        if isinstance(reply, StreamsFull):
            # A matter of the next owner, so it has the time that memory needs.
            asyncio.get_running_loop().call_later(ACTIVATE_S, self._activate, keys)
        elif isinstance(reply, BrokerError):
            self._fail(reply)

    # --- dispatch -------------------------------------------------------------------------------------

    def _hold(self, item: Item, now_ms: int) -> None:
        item.held_ms = now_ms
        self.room.hold(item)
        if not item.announced:
            (self._waited if item.waiter else self._unannounced).append(item)

    def _pump(self, endpoint: Endpoint, now_ms: int) -> None:
        """Post what the endpoint, its breaker and the quota allow."""
        while endpoint.queued and endpoint.in_flight < endpoint.limit and not self._stopping:
            if self.in_flight >= self._rules.quota:
                if not endpoint.ready:
                    endpoint.ready = True
                    self._ready.append(endpoint)
                return
            breaker = endpoint.breaker
            if breaker.state is not BreakerState.CLOSED and not breaker.may_send(now_ms):
                self._troubled.put(endpoint)
                return
            item = self.room.next_item(endpoint)
            assert item is not None
            self._post(endpoint, item, now_ms)

    def _post(self, endpoint: Endpoint, item: Item, now_ms: int) -> None:
        if item.expires_ms is not None and item.expires_ms <= now_ms:
            self._finish(item, Status.EXPIRED, Reason.EXPIRED, now_ms)
            return
        if endpoint.target is None:
            self._finish(item, Status.FAILED, Reason.ENDPOINT_INVALID, now_ms)
            return
        endpoint.breaker.sent(now_ms)
        endpoint.in_flight += 1
        self.in_flight += 1
        self._quiet.clear()
        item.in_flight = True
        item.started_ms = now_ms
        head = endpoint.head(item, now_s=now_ms // 1000)
        deadlines = self._rules.deadlines if item.options.timeout is None else self._deadlines_of(item)
        self._client.post(
            endpoint.target, head, item.body, deadlines, partial(self._answered, endpoint, item)
        )

    def _answered(self, endpoint: Endpoint, item: Item, result: Answer | Failure) -> None:
        endpoint.in_flight -= 1
        self.in_flight -= 1
        item.in_flight = False
        if self.failed.done():
            return
        now_ms = self._clock.now_ms()
        outcome = conclude(
            item, result, agent=endpoint.agent, now_ms=now_ms, chance=random.random(), scale=self._rules.scale
        )
        if outcome.healthy is False:
            endpoint.breaker.failed(now_ms)
            if endpoint.breaker.state is BreakerState.OPEN:
                self.room.shed(endpoint)
        elif outcome.healthy:
            endpoint.breaker.succeeded(now_ms)
        self.stats.attempted(item, outcome, now_ms)
        if outcome.reply is not UNSET and item.sender is not None:
            self._replying += 1
            self._replies.send(item, outcome, then=partial(self._replied, item, outcome))
        else:
            self._settle(item, outcome)
        self._note_quiet()
        self._pump(endpoint, now_ms)
        if self.room.hungry:
            self._collect()
        while self._ready and self.in_flight < self._rules.quota:
            waiting = self._ready.popleft()
            waiting.ready = False
            self._pump(waiting, now_ms)
        if not self._ready:
            self._relieved.set()

    def _replied(self, item: Item, outcome: Outcome) -> None:
        self._replying -= 1
        if not self.failed.done():
            self._settle(item, outcome)
        self._note_quiet()

    def _note_quiet(self) -> None:
        if not self.in_flight and not self._replying:
            self._quiet.set()

    # --- settling -------------------------------------------------------------------------------------

    def _settle(self, item: Item, outcome: Outcome) -> None:
        if outcome.due_ms is None:
            self._settler.finish(item, outcome.event)
        else:
            member = f"{item.place}|{item.attempts + 1}"
            self.room.wait(item.mailbox, item.place)
            self._settler.retry(item, outcome.event, due_ms=outcome.due_ms, member=member)
            if self._collector.due_by(outcome.due_ms):
                self._due_sooner.set()
        item.announced = True

    def _finish(self, item: Item, status: Status, reason: Reason, now_ms: int) -> None:
        self._settler.finish(item, finished(item, status, reason, now_ms=now_ms))
        self.stats.ended(status, reason)
        item.announced = True

    def _settled(self, items: list[Item]) -> None:
        for item in items:
            if item.due_taken:
                self.room.retrying.discard(item.place)
            self.room.release(item.mailbox)

    def _fail(self, error: BrokerError) -> None:
        if not self.failed.done():
            self.failed.set_result(error)

    # --- what happens by the clock --------------------------------------------------------------------

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._ticks += 1
            self.stats.now_ms = now_ms = self._clock.now_ms()
            self._announce(self._waited, now_ms - ANNOUNCE_WAITED_MS)
            self._announce(self._unannounced, now_ms - ANNOUNCE_MS)
            for endpoint in self._troubled.due(now_ms):
                self._pump(endpoint, now_ms)
            self._newcomers.look_again(now_ms)
            # Memory also empties without an answer: what expired, what has nowhere to go.
            self._collect()
            if self._more_vacant or self._ticks % VACATE_TICKS == 0:
                self._vacate(now_ms)

    def _announce(self, items: deque[Item], before_ms: int) -> None:
        """Tell the record of items that came before this moment and are not settled."""
        count = 0
        while items and items[0].held_ms <= before_ms and count < ANNOUNCE_BATCH_MAX:
            item = items.popleft()
            if not item.announced:
                count += 1
                self._settler.tell(announced(item, now_ms=self._clock.now_ms()))
                item.announced = True

    def _vacate(self, now_ms: int) -> None:
        mailboxes = list(self.room.vacant(now_ms=now_ms, at_most=VACATE_BATCH_MAX))
        self._more_vacant = len(mailboxes) == VACATE_BATCH_MAX
        if mailboxes and not self._stopping:
            keys = (self._keys.owner("deliver"), self._keys.active, *(m.key for m in mailboxes))
            self._connection.run(VACATE, keys, (self._owner(),), partial(self._vacated, mailboxes))

    def _vacated(self, mailboxes: list[Mailbox], reply: Reply) -> None:
        if isinstance(reply, BrokerError):
            self._fail(reply)
            return
        for mailbox, was_empty in zip(mailboxes, reply, strict=True):
            if not was_empty:
                # Written to by somebody else, or a pull was cut short: look at it from the start.
                self.ring(mailbox.key)

    async def _take_due(self) -> None:
        while True:
            next_ms, now_ms = self._collector.next_due_ms, self._clock.now_ms()
            wait_s = DUE_IDLE_S if next_ms is None else min(DUE_IDLE_S, max(0.005, (next_ms - now_ms) / 1000))
            try:
                async with asyncio.timeout(wait_s):
                    await self._due_sooner.wait()
                self._due_sooner.clear()
                continue
            except TimeoutError:
                pass
            if self._stopping:
                continue
            items, freed = await self._collector.take_due(self._owner(), now_ms=self._clock.now_ms())
            now_ms = self._clock.now_ms()
            for item in items:
                self._hold(item, now_ms)
                self._pump(item.mailbox.endpoint, now_ms)
            for mailbox in freed:
                self._pump(mailbox.endpoint, now_ms)

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(EXPIRY_S)
            for item in await self._expiry.take(self._owner(), now_ms=self._clock.now_ms()):
                self._finish(item, Status.EXPIRED, Reason.EXPIRED, self._clock.now_ms())

    async def _watch(self) -> None:
        """End the trade when something here failed."""
        raise await self.failed

    def _collect(self) -> None:
        if self.is_ready and not self._stopping and self.room.hungry:
            self._collector.collect(self._collected)

    def _collected(self, mailbox: Mailbox) -> None:
        self._pump(mailbox.endpoint, self._clock.now_ms())
        self._collect()

    def _owner(self) -> str:
        return self.lease.value

    def _deadlines_of(self, item: Item) -> Deadlines:
        """Return deadlines with the message's own total, within the deployment's bounds."""
        assert item.options.timeout is not None
        rules = self._rules.deadlines
        total_ms = int(min(max(item.options.timeout, 1.0), TIMEOUT_S_MAX) * 1000)
        return Deadlines(
            total_ms=total_ms,
            connect_ms=rules.connect_ms,
            tls_ms=rules.tls_ms,
            first_byte_ms=max(rules.first_byte_ms, total_ms),
        )
