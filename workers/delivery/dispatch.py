"""Posts what memory holds as far as endpoint, breaker and quota allow, and settles what came of it.

Does not know where items come from (`delivery`, `collector`) nor what happens by the clock (`rounds`).
Invariant: an item that was posted is settled, tried again or, after `close`, dropped, exactly once.
"""

import asyncio
import random
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Final

from msgspec import UNSET, Struct

from broker.core.breaker import CLOSED, BreakerState
from broker.streams.clock import ServerClock
from broker.telemetry import logs, metrics
from broker.transport.client import Answer, Deadlines, Failure, PushClient, Target
from schema.ledger import Event
from schema.limits import ATTEMPT_OWN_MS_MAX, ENDPOINT_DISABLE_AFTER_MS, SHARD_IN_FLIGHT_MAX
from schema.message import Reason, Status
from workers.delivery.announcing import Announcer
from workers.delivery.endpoint import ALLOWANCE, STAMP_MS, Allowance, Endpoint, stamp_of
from workers.delivery.health import Health
from workers.delivery.items import Item
from workers.delivery.mailroom import Mailroom
from workers.delivery.outcome import Outcome, conclude, finished
from workers.delivery.plain import plain_event
from workers.delivery.replies import Replies
from workers.delivery.rerouting import Rerouting
from workers.delivery.settler import Settler
from workers.delivery.shelving import Shelver
from workers.delivery.stats import DeliveryStats
from workers.delivery.trials import Trials
from workers.delivery.troubled import Troubled

TIMEOUT_S_MIN: Final = 1.0
"""Shorter than this a message may not ask for: it would only fail."""
_REROUTED: Final = {
    True: metrics.REROUTED.child(reason="declined"),
    False: metrics.REROUTED.child(reason="failed"),
}


class DeliveryRules(Struct, frozen=True):
    """What the deployment sets. `scale` shrinks retry and breaker times (tests). `own_total_ms_max`: the
    longest deadline a message may ask for."""

    deadlines: Deadlines
    allowance: Allowance = ALLOWANCE
    own_total_ms_max: int = ATTEMPT_OWN_MS_MAX
    disable_after_ms: int = ENDPOINT_DISABLE_AFTER_MS
    quota: int = SHARD_IN_FLIGHT_MAX
    scale: float = 1.0


class Dispatch:
    """The requests of one shard. `on_room`: memory has room for what lies in Redis; `on_retry`: one is due
    then."""

    def __init__(
        self,
        room: Mailroom,
        settler: Settler,
        announcer: Announcer,
        *,
        client: PushClient,
        clock: ServerClock,
        rules: DeliveryRules,
        stats: DeliveryStats,
        replies: Replies,
        rerouting: Rerouting,
        shelver: Shelver,
        on_room: Callable[[], None],
        on_retry: Callable[[int], None],
    ) -> None:
        self.in_flight = 0
        self.stopping = False
        """Whether nothing new is to be posted."""
        self._room = room
        self._settler = settler
        self._announcer = announcer
        self._client = client
        self._clock = clock
        self._rules = rules
        self._quota = rules.quota
        self._stats = stats
        self._replies = replies
        self._rerouting = rerouting
        self._shelver = shelver
        self._on_room = on_room
        self._on_retry = on_retry
        self._ready: deque[Endpoint] = deque()
        """Endpoints with room that wait for the quota."""
        self._stamp = stamp_of(0)
        """Of the second in which something was posted last."""
        self._on_answer = self._answered
        """Made once, not for every post."""
        self._troubled = Troubled()
        self._relieved = asyncio.Event()
        self._quiet = asyncio.Event()
        self._replying = 0
        """Answers that carry a reply which is not published yet; they are settled after it."""
        self._closed = False
        self.health: Health
        """Who hears of endpoints that fail; set by whoever makes both."""
        self.trials: Trials | None = None
        """Set while a message is sought that kills its worker."""

    # --- in and out -----------------------------------------------------------------------------------

    def take(self, item: Item, now_ms: int) -> None:
        """Take an item, held since now, into memory, and post it as soon as it may be."""
        endpoint = item.mailbox.endpoint
        if (
            endpoint.queued
            or endpoint.in_flight >= endpoint.limit
            or self.in_flight >= self._quota
            or endpoint.breaker.state is not CLOSED
            or endpoint.pace is not None
            or self.stopping
        ):
            self.hold(item, now_ms)
            self.pump(endpoint, now_ms)
            return
        # Nothing stands before it: past the queue.
        item.mailbox.held += 1
        if not item.announced:
            self._announcer.note(item)
        self._post(endpoint, item, now_ms)

    def hold(self, item: Item, now_ms: int) -> None:
        """Take an item into memory; the caller pumps."""
        item.held_ms = now_ms
        self._room.hold(item)
        if not item.announced:
            self._announcer.note(item)

    def finish(self, item: Item, status: Status, reason: Reason, now_ms: int) -> None:
        """End an item without another attempt."""
        self._settler.finish(item, finished(item, status, reason, now_ms=now_ms))
        self._stats.ended(status, reason)
        item.announced = True

    @property
    def is_saturated(self) -> bool:
        """Tell whether endpoints with room wait for the shard's quota: more would only queue."""
        return len(self._ready) > 0 and self.in_flight >= self._quota

    async def relief(self) -> None:
        """Wait until the quota has room again, or nothing is posted any more."""
        while self.is_saturated and not self.stopping:
            self._relieved.clear()
            await self._relieved.wait()

    async def drain(self) -> None:
        """Post nothing new and wait until all that is in flight has come to its end."""
        self.stopping = True
        while self.in_flight or self._replying:
            self._quiet.clear()
            await self._quiet.wait()

    def give_up(self) -> None:
        """Drop what still comes back."""
        self._closed = True

    def close(self) -> None:
        """Post nothing new and drop what still comes back."""
        self.stopping = self._closed = True
        self._relieved.set()

    # --- posting --------------------------------------------------------------------------------------

    def pump(self, endpoint: Endpoint, now_ms: int) -> None:
        """Post what the endpoint, its breaker and the quota allow."""
        while endpoint.queued and endpoint.in_flight < endpoint.limit and not self.stopping:
            if self.in_flight >= self._quota:
                if not endpoint.ready:
                    endpoint.ready = True
                    self._ready.append(endpoint)
                return
            if endpoint.target is not None and not self._may_post(endpoint, now_ms):
                return
            item = self._room.next_item(endpoint)
            assert item is not None
            self._post(endpoint, item, now_ms)

    def _may_post(self, endpoint: Endpoint, now_ms: int) -> bool:
        """Ask breaker and pace; where they refuse, the endpoint waits among the troubled."""
        breaker = endpoint.breaker
        # One probe at a time, and none beside requests from before the breaker opened.
        if breaker.state is not CLOSED and (endpoint.in_flight or not breaker.may_send(now_ms)):
            self._troubled.put(endpoint, breaker.retry_at_ms)
            return False
        pace = endpoint.pace
        if pace is not None and not pace.take(now_ms):
            self._troubled.put(endpoint, pace.ready_ms(now_ms))
            return False
        return True

    def probe(self, now_ms: int) -> None:
        """Post to endpoints whose breaker, or pace, lets a request through again."""
        for endpoint in self._troubled.due(now_ms):
            self.pump(endpoint, now_ms)

    def _post(self, endpoint: Endpoint, item: Item, now_ms: int) -> None:
        if item.expires_ms is not None and item.expires_ms <= now_ms:
            self.finish(item, Status.EXPIRED, Reason.EXPIRED, now_ms)
            return
        target = endpoint.target
        if target is None:
            if not self._reroute(item, finished(item, Status.FAILED, endpoint.refusal, now_ms=now_ms)):
                self.finish(item, Status.FAILED, endpoint.refusal, now_ms)
            return
        if self.trials is not None and self.trials.is_poison(item):
            self.finish(item, Status.FAILED, Reason.POISON, now_ms)
            return
        try:
            if not 0 <= now_ms - self._stamp.from_ms < STAMP_MS:
                self._stamp = stamp_of(now_ms)
            head = endpoint.head(item, self._stamp)
        except Exception as error:  # a fault of ours, met on one message, must not stop the shard for good
            self._bury(item, error, now_ms)
            return
        deadlines = self._rules.deadlines if item.options.timeout is None else self._deadlines_of(item)
        if endpoint.breaker.state is not CLOSED:
            endpoint.breaker.sent(now_ms, within_ms=deadlines.total_ms)
        endpoint.in_flight += 1
        self.in_flight += 1
        item.started_ms = now_ms
        if self.trials is None:
            self._client.post(target, head, item.body, deadlines, self._on_answer, item)
        else:
            self.trials.post(item, partial(self._post_on_trial, target, item, deadlines))

    def _post_on_trial(self, target: Target, item: Item, deadlines: Deadlines) -> None:
        item.started_ms = now_ms = self._clock.now_ms()
        # Signed only now: a suspect may have waited for its turn until its signature was too old.
        head = item.mailbox.endpoint.head(item, stamp_of(now_ms))
        self._client.post(target, head, item.body, deadlines, self._on_answer, item)

    def _answered(self, item: Item, result: Answer | Failure) -> None:
        endpoint = item.mailbox.endpoint
        endpoint.in_flight -= 1
        self.in_flight -= 1
        if self._closed:
            return
        now_ms = self._clock.at(result.ended_ms)
        try:
            event = plain_event(item, result, now_ms) if type(result) is Answer else None
            if event is None:
                self._conclude(endpoint, item, result, now_ms)
            else:
                endpoint.breaker.succeeded(now_ms)
                if endpoint.is_failing:
                    self._note_recovery(endpoint, now_ms)
                self._stats.delivered(item, result.duration_ms, now_ms)
                self._settler.finish_written(item, event)
                item.announced = True
        except Exception as error:  # as where it is posted: it must come to its end, and only once
            self._bury(item, error, now_ms)
        if self.trials is not None:
            self.trials.came_back(item)
        if endpoint.queued:
            self.pump(endpoint, now_ms)
        if self._room.hungry:
            self._on_room()
        if self._ready:
            self._pump_ready(now_ms)
        if self.stopping:
            self._note_quiet()

    def _pump_ready(self, now_ms: int) -> None:
        while self._ready and self.in_flight < self._quota:
            waiting = self._ready.popleft()
            waiting.ready = False
            self.pump(waiting, now_ms)
        if not self._ready:
            self._relieved.set()

    # --- settling -------------------------------------------------------------------------------------

    def _conclude(self, endpoint: Endpoint, item: Item, result: Answer | Failure, now_ms: int) -> None:
        """Draw the consequences of a result that is not just "delivered"."""
        outcome = conclude(
            item, result, agent=endpoint.agent, now_ms=now_ms, chance=random.random(), scale=self._rules.scale
        )
        if outcome.is_gone:
            self.health.gone(endpoint, now_ms)
        elif outcome.healthy is False:
            if endpoint.target is not None:
                self._note_failure(endpoint, outcome, now_ms)
        elif outcome.healthy:
            endpoint.breaker.succeeded(now_ms)
            if endpoint.is_failing:
                self._note_recovery(endpoint, now_ms)
        self._stats.attempted(item, outcome, now_ms)
        if outcome.event.status is not Status.DELIVERED and self._reroute(item, outcome.event):
            return
        if outcome.reply is not UNSET and item.sender is not None:
            self._replying += 1
            self._replies.send(item, outcome, then=partial(self._replied, item, outcome))
        else:
            self._settle(item, outcome)

    def _reroute(self, item: Item, event: Event) -> bool:
        """Pass a message on to another agent, where it is one for that; tell whether it was."""
        reroute = self._rerouting.judge(item, event)
        if reroute is None:
            return False
        self._in_place(item, partial(self._settler.reroute, item, reroute.event, reroute.message))
        item.announced = True
        _REROUTED[event.reason == Reason.DECLINED.value].inc()
        return True

    def _note_failure(self, endpoint: Endpoint, outcome: Outcome, now_ms: int) -> None:
        endpoint.breaker.failed(now_ms)
        if endpoint.breaker.state is BreakerState.OPEN:
            self.give_back(endpoint)
            self._room.shed(endpoint)
            self.health.failed(endpoint, now_ms, what=outcome.label)

    def _note_recovery(self, endpoint: Endpoint, now_ms: int) -> None:
        # A late success of a request from before the breaker opened leaves it open; the next probe will tell.
        if endpoint.breaker.state is CLOSED:
            self.health.recovered(endpoint, now_ms)

    def _bury(self, item: Item, error: Exception, now_ms: int) -> None:
        """End a message on which our own code fails, unless that was after it had come to an end."""
        logs.error("delivery.message_broken", message_id=item.id, error=error)
        if self._settler.took_last(item):
            return
        self.finish(item, Status.FAILED, Reason.POISON, now_ms)

    def _replied(self, item: Item, outcome: Outcome) -> None:
        self._replying -= 1
        if not self._closed:
            self._settle(item, outcome)
        self._note_quiet()

    def _settle(self, item: Item, outcome: Outcome) -> None:
        if outcome.due_ms is None:
            self._settler.finish(item, outcome.event)
        else:
            self._in_place(item, partial(self._retry, item, outcome.event, outcome.due_ms))
        item.announced = True

    def _retry(self, item: Item, event: Event, due_ms: int) -> None:
        if event.message is not UNSET:
            # The record hears of it for the first time: where it waits, so that it can be taken back there.
            event.mailbox_entry = item.entry
        member = f"{item.place}|{item.attempts + 1}"
        self._room.wait(item.mailbox, item.place)
        self._settler.retry(item, event, due_ms=due_ms, member=member)
        self._on_retry(due_ms)

    def _in_place(self, item: Item, go: Callable[[], None]) -> None:
        """Go on with an item when it lies in its mailbox."""
        if item.direct or item.shelving is not None:
            self._shelver.shelve(item, go)
        else:
            go()

    def give_back(self, endpoint: Endpoint) -> None:
        """Put into its mailboxes what an endpoint was handed directly and has not been posted."""
        direct = self._room.withdraw_direct(endpoint)
        if direct:
            self._shelver.give_back(direct)

    def _note_quiet(self) -> None:
        if not self.in_flight and not self._replying:
            self._quiet.set()

    def _deadlines_of(self, item: Item) -> Deadlines:
        """Return deadlines with the message's own total, within the deployment's bounds."""
        assert item.options.timeout is not None
        rules = self._rules.deadlines
        asked_ms = max(item.options.timeout, TIMEOUT_S_MIN) * 1000
        total_ms = int(min(asked_ms, self._rules.own_total_ms_max))
        return Deadlines(
            total_ms=total_ms,
            connect_ms=rules.connect_ms,
            tls_ms=rules.tls_ms,
            first_byte_ms=max(rules.first_byte_ms, total_ms),
        )
