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
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from broker.core.breaker import CLOSED, Breaker
from broker.streams.clock import ServerClock
from broker.streams.connection import Connection, Reply
from broker.streams.keys import Keys
from broker.streams.ownership import Lease
from broker.transport.client import PushClient
from schema.agent import Agent
from schema.errors import BrokerError, StreamsFull
from schema.ids import new_id
from schema.message import Envelope, Lane
from workers.delivery.announcing import Announcer
from workers.delivery.collector import Collector
from workers.delivery.dispatch import DeliveryRules, Dispatch
from workers.delivery.endpoint import Endpoint
from workers.delivery.health import Health
from workers.delivery.items import Item, Mailbox, item_of
from workers.delivery.left_to_pull import LeftToPull
from workers.delivery.mailroom import Mailroom, is_fresh
from workers.delivery.newcomers import Newcomers
from workers.delivery.outcome import announced
from workers.delivery.replies import Replies
from workers.delivery.rerouting import Another, Rerouting
from workers.delivery.rounds import Rounds
from workers.delivery.settler import Settler
from workers.delivery.shelving import Shelver
from workers.delivery.stats import DeliveryStats
from workers.delivery.survival import Survival
from workers.delivery.trials import Trials

__all__ = ["Delivery", "DeliveryRules"]

ACTIVATE_S: Final = 0.5


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
        another: Another,
        survival: Survival,
    ) -> None:
        self.lease = lease
        self.stats = stats
        self.is_ready = False
        """Whether the take-over is complete; before that nothing is posted straight from routing."""
        self.failed: asyncio.Future[BrokerError] = asyncio.get_running_loop().create_future()
        self._connection = connection
        self._keys = keys
        self._clock = clock
        self.room = Mailroom(
            keys,
            find_agent=find_agent,
            make_breaker=partial(Breaker, scale=rules.scale),
            now_ms=clock.now_ms,
            gives=rules.allowance,
        )
        self._settler = Settler(
            connection, keys, owner=self._owner, on_settled=self.room.settled, on_error=self.fail
        )
        self.left_to_pull = LeftToPull(
            connection,
            keys,
            self.room,
            owner=self._owner,
            now_ms=clock.now_ms,
            on_error=self.fail,
        )
        self.shelver = Shelver(
            connection,
            keys,
            self.room,
            life=new_id(),
            owner=self._owner,
            now_ms=clock.now_ms,
            set_aside=self._settler.set_aside_direct,
            unserved=self.left_to_pull.note,
            on_room=self.collect,
            on_error=self.fail,
        )
        self.announcer = Announcer(self._settler.tell, self.shelver.shelve)
        self.dispatch = Dispatch(
            self.room,
            self._settler,
            self.announcer,
            client=client,
            clock=clock,
            rules=rules,
            stats=stats,
            replies=replies,
            rerouting=Rerouting(another),
            shelver=self.shelver,
            on_room=self.collect,
            on_retry=self._expect_retry,
        )
        self.health = self.dispatch.health = Health(
            connection,
            keys,
            self.room,
            disable_after_ms=rules.disable_after_ms,
            on_disabled=self._disabled,
            on_error=self.fail,
        )
        self._trials = Trials(connection, keys, owner=self._owner(), survival=survival, on_error=self.fail)
        self.collector = Collector(
            connection,
            keys,
            self.room,
            hold=self.dispatch.hold,
            set_aside=self._settler.set_aside,
            unserved=self.left_to_pull.note,
            now_ms=clock.now_ms,
            on_error=self.fail,
        )
        self.newcomers = Newcomers(connection, found=self._found, on_error=self.fail)
        self._rounds = Rounds(self, connection, keys, lease, clock)

    # --- the trade ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Take over the shard and serve it until cancelled or failed. Raises: BrokerError."""
        await self._trials.begin(self._clock.now_ms())
        self.dispatch.trials = self._trials if self._trials.is_on else None
        await self.health.load()
        await self.shelver.take_over()
        await self.collector.take_over(self._owner())
        self.is_ready = True
        self.collect()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._rounds.run())
            group.create_task(self._watch())

    async def drain(self) -> None:
        """Take nothing new, let what is in flight finish, settle it. The caller bounds the wait."""
        await self.dispatch.drain()
        for endpoint in self.room.endpoints.values():
            self.dispatch.give_back(endpoint)
        await self.shelver.drain()
        await self._settler.drain()
        await self._trials.end()

    def close(self) -> None:
        """Stop. Results that still come are dropped: whoever owns the shard next sends those again."""
        self.dispatch.close()
        self._settler.close()
        self._trials.close()
        if not self.failed.done():
            self.failed.cancel()

    def fail(self, error: BrokerError) -> None:
        """End the trade: memory may no longer match Redis."""
        self.dispatch.give_up()
        if not self.failed.done():
            self.failed.set_result(error)

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
        return self._is_level(mailbox) and (not mailbox.queue or self.room.has_room(mailbox))

    def _is_level(self, mailbox: Mailbox) -> bool:
        return self.is_ready and not mailbox.behind and not self.dispatch.stopping

    def name_for(self, mailbox: Mailbox, now_ms: int) -> str:
        """Return the name by which a message for this mailbox is handed over directly. Empty where it is to
        lie in the mailbox: its endpoint is in trouble, slow, paced, or keeps an order, or a message is sought
        that kills its worker; or there might be no room for it in memory, with all that comes before it, and
        what is put into the mailbox only then would stand behind what has come meanwhile."""
        endpoint = mailbox.endpoint
        if (
            endpoint.breaker.state is not CLOSED
            or endpoint.slow_until_ms > now_ms
            or endpoint.pace is not None
            or endpoint.agent.ordered
            or self.dispatch.trials is not None
            or not self.room.has_room_for_what_comes(mailbox)
        ):
            return ""
        return self.shelver.new_name()

    def receive(
        self, mailbox: Mailbox, name: str, envelope: Envelope, body: bytes, now_ms: int, route: bytes | None
    ) -> None:
        """Take what was just handed over directly."""
        mailbox.coming -= 1
        item = item_of(mailbox, name, envelope, body, "", False, route, now_ms)
        item.direct = True
        if not mailbox.closed and self._is_level(mailbox) and not mailbox.endpoint.agent.ordered:
            self.dispatch.take(item, now_ms)
            return
        # Something has changed since it was routed. Where order is kept from now on, what was queued before
        # it is on its way into the mailbox, and it goes behind that.
        self.shelver.give_back([item], then=self._tell)

    def _tell(self, item: Item) -> None:
        self._settler.tell(announced(item, now_ms=self._clock.now_ms()))

    def miss(self, mailbox: Mailbox) -> None:
        """Note that what was expected was a duplicate."""
        self.room.came(mailbox)

    def accept(
        self,
        mailbox: Mailbox,
        entry: str,
        envelope: Envelope,
        body: bytes,
        now_ms: int,
        waiter: str = "",
        told: bool = False,
        route: bytes | None = None,
    ) -> None:
        """Take what was just routed into a mailbox: into memory where that is level with it, else later.

        `told`: the route call has already written its event.
        """
        mailbox.coming -= 1
        if mailbox.closed or not self.takes_directly(mailbox):
            if not told:
                item = item_of(mailbox, entry, envelope, body, waiter, told, route)
                self._settler.tell(announced(item, now_ms=now_ms))
            if not mailbox.closed:
                self.room.fall_behind(mailbox)
                self.collect()
            return
        mailbox.cursor = entry
        item = item_of(mailbox, entry, envelope, body, waiter, told, route, now_ms)
        self.dispatch.take(item, now_ms)

    def calm_down(self, now_ms: int) -> None:
        """Suspect no message any more, after some time without a death."""
        if self.dispatch.trials is not None:
            self._trials.calm_down(now_ms)
            if not self._trials.is_on:
                self.dispatch.trials = None

    def ring(self, key: str) -> None:
        """Look into a mailbox: a router in another process says that something came."""
        if self.collector.ring(key) is not None:
            self.collect()

    def drop(self, place: str) -> None:
        """Let go of an entry that was taken out of its mailbox, where it is still to be posted: its message
        has ended elsewhere, and that is on record."""
        key, _, entry = place.rpartition("|")
        mailbox = self.room.mailboxes.get(key)
        item = None if mailbox is None else self.room.take_out(mailbox, entry)
        if item is None:
            return
        item.announced = True
        self.room.out_of_turn.discard(item.place)
        if item.due_taken:
            self._connection.call(("ZREM", self._keys.due, item.due_member), self._deactivated)
        self.room.release(item.mailbox)

    async def sweep(self) -> None:
        """Look at everything on the active set anew; meanwhile nothing is posted straight from routing."""
        ready, self.is_ready = self.is_ready, False
        await self.collector.sweep()
        if ready:
            self.is_ready = True
            self.collect()

    @property
    def in_flight(self) -> int:
        """Requests under way."""
        return self.dispatch.in_flight

    @property
    def is_saturated(self) -> bool:
        """Tell whether more than is routed now would only queue."""
        return self.dispatch.is_saturated

    async def relief(self) -> None:
        """Wait until that is over."""
        await self.dispatch.relief()

    def outstanding(self, agent_id: str) -> int:
        """Return how many messages of an agent are not finished, as far as memory knows."""
        endpoint = self.room.endpoints.get(agent_id)
        return 0 if endpoint is None else endpoint.outstanding

    def agent_changed(self, agent_id: str, agent: Agent | None) -> None:
        """Follow a change in the registry; an agent with a new endpoint gets what waited for it, one that is
        paused, disabled or gone nothing more."""
        endpoint = self.room.endpoints.get(agent_id)
        if endpoint is not None and (agent is None or not agent.is_pushed_to):
            self.dispatch.give_back(endpoint)
            now_ms = self._clock.now_ms()
            self.collector.give_back(self.room.abandon(endpoint), self._owner(), due_ms=now_ms)
        if agent is None:
            self.health.departed(agent_id)
            return  # the keeper returns what lies in its mailboxes to the senders
        if agent.endpoint is None:
            # It pulls from now on: nobody serves its mailboxes, and who empties one may remove it.
            self.left_to_pull.leave(agent_id)
        elif not agent.is_pushed_to:
            return  # what waits stays on the active set, for when it is active again
        elif endpoint is None:
            keys = [self._keys.mailbox(agent_id, lane) for lane in Lane]
            self.newcomers.look(keys, now_ms=self._clock.now_ms())
        else:
            self._change(endpoint, agent)

    def _change(self, endpoint: Endpoint, agent: Agent) -> None:
        if is_fresh(agent, endpoint.agent):
            self.health.changed(endpoint)
        if agent.ordered and not endpoint.agent.ordered:
            # What comes from now on lies in its mailbox; what is among the direct ones would come behind it.
            self.dispatch.give_back(endpoint)
        disabled = endpoint.fault is None and agent.endpoint_fault is not None
        self.room.update(endpoint, agent)
        if disabled:
            self._disabled(endpoint)
        else:
            self.dispatch.pump(endpoint, self._clock.now_ms())

    def _disabled(self, endpoint: Endpoint) -> None:
        """End what waits for an endpoint nothing is pushed to any more: what is queued now, what lies behind
        it as it is read, and retries as if they were due."""
        self.room.trust(endpoint)
        self._rounds.hasten(endpoint.agent.id)
        self.dispatch.pump(endpoint, self._clock.now_ms())

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
            self.fail(reply)

    def _activated(self, keys: list[str], reply: Reply) -> None:
        if isinstance(reply, StreamsFull):
            # A matter of the next owner, so it has the time that memory needs.
            asyncio.get_running_loop().call_later(ACTIVATE_S, self._activate, keys)
        elif isinstance(reply, BrokerError):
            self.fail(reply)

    # --- inside ---------------------------------------------------------------------------------------

    def collect(self) -> None:
        """Read back what memory has room for."""
        if self.is_ready and not self.dispatch.stopping and self.room.hungry:
            self.collector.collect(self._collected)

    def _collected(self, mailbox: Mailbox) -> None:
        self.dispatch.pump(mailbox.endpoint, self._clock.now_ms())
        self.collect()

    def _expect_retry(self, due_ms: int) -> None:
        self._rounds.expect_retry(due_ms)

    async def _watch(self) -> None:
        """End the trade when something here failed."""
        raise await self.failed

    def _owner(self) -> str:
        return self.lease.value
