"""What the delivery owner of one shard holds in memory: endpoints, their mailboxes, retries that wait.

Decides nothing about sending; keeps the books and their bounds.
"""

from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from broker.core.breaker import CLOSED, Breaker
from broker.streams.keys import Keys, mailbox_owner
from schema.agent import Agent
from schema.health import Failing
from schema.limits import (
    MAILBOX_QUEUED_FULL,
    MAILBOX_QUEUED_MAX,
    MAILBOX_QUEUED_MIN,
    SHARD_QUEUED_MAX,
)
from schema.message import Lane
from workers.delivery.endpoint import ALLOWANCE, Allowance, Endpoint
from workers.delivery.items import Item, Mailbox

VACATE_AFTER_MS: Final = 3_000
"""A mailbox empty for this long is removed; sooner would remake the streams of agents that get a message now
and then, and the books about their endpoints, for every message. Less than the time between two sweeps of a
delivery owner that does not route itself: a sweep looks into every mailbox, and nobody is idle then."""


class Mailroom:
    """The books of one shard."""

    def __init__(
        self,
        keys: Keys,
        *,
        find_agent: Callable[[str], Agent | None],
        make_breaker: Callable[[], Breaker],
        now_ms: Callable[[], int],
        gives: Allowance = ALLOWANCE,
    ) -> None:
        self._keys = keys
        self._find_agent = find_agent
        self._make_breaker = make_breaker
        self._now_ms = now_ms
        self._gives = gives
        self.failing: dict[str, Failing] = {}
        """What is remembered of endpoints that fail, by agent; `health` writes it."""
        self.endpoints: dict[str, Endpoint] = {}
        self.mailboxes: dict[str, Mailbox] = {}
        self.waiting: dict[str, Mailbox | None] = {}
        """Retries that wait in Redis: place (`mailbox|entry`) -> the mailbox held open for it (None: its
        agent had no endpoint then)."""
        self.out_of_turn: set[str] = set()
        """Places of entries in memory that a read passes over when it comes by them: retries, and what was
        put into its mailbox while it was held in memory."""
        self.hungry: dict[str, Mailbox] = {}
        """Mailboxes that are behind and have room for what a read would bring, in the order they got it."""
        self.expiring: set[str] = set()
        """Places of entries that are being expired in Redis; a read that comes by them passes over them."""
        self.queued = 0
        self.coming = 0
        """Entries that reads under way may bring."""
        self._idle: deque[tuple[int, str]] = deque()

    def mailbox_of(self, agent_id: str, lane: Lane) -> Mailbox | None:
        """Return the agent's mailbox, opening the books for it; None for an agent nothing is pushed to."""
        endpoint = self.endpoints.get(agent_id)
        if endpoint is not None and (mailbox := endpoint.mailboxes.get(lane)) is not None:
            return mailbox
        agent = self._find_agent(agent_id) if endpoint is None else endpoint.agent
        if agent is None or not agent.is_pushed_to:
            return None
        if endpoint is None:
            endpoint = self.endpoints[agent_id] = self._endpoint_of(agent)
        mailbox = Mailbox(endpoint, self._keys.mailbox(agent_id, lane), lane)
        endpoint.mailboxes[lane] = self.mailboxes[mailbox.key] = mailbox
        # Should nothing ever lie in it (a duplicate was routed there), it is vacated like any other.
        self._note_idle(mailbox)
        return mailbox

    def _endpoint_of(self, agent: Agent) -> Endpoint:
        endpoint = Endpoint(agent, self._make_breaker(), self._gives)
        failing = self.failing.get(agent.id)
        if failing is not None and failing.endpoint_since_ms == agent.endpoint_since_ms:
            endpoint.is_failing = True
            endpoint.breaker.distrust(self._now_ms())
        return endpoint

    @property
    def breakers_open(self) -> int:
        """Endpoints that get nothing, or a probe, at the moment."""
        return sum(endpoint.breaker.state is not CLOSED for endpoint in self.endpoints.values())

    def mailbox_at(self, key: str) -> Mailbox | None:
        """Return the mailbox of a key, opening the books for it; None for an agent nothing is pushed to."""
        return self.mailboxes.get(key) or self.mailbox_of(*mailbox_owner(key))

    def is_pushed_to(self, key: str) -> bool:
        """Tell whether what lies in the mailbox of this key is pushed."""
        agent = self._find_agent(mailbox_owner(key)[0])
        return agent is not None and agent.is_pushed_to

    def is_pulled(self, key: str) -> bool:
        """Tell whether what lies in the mailbox of this key waits to be pulled."""
        agent = self._find_agent(mailbox_owner(key)[0])
        return agent is not None and agent.endpoint is None

    def has_agent(self, key: str) -> bool:
        """Tell whether the agent of this mailbox is registered. What is put there belongs on the active set
        then: it is pushed, now or when its agent is active again, or the record is told of it."""
        return self._find_agent(mailbox_owner(key)[0]) is not None

    def is_spoken_for(self, place: str) -> bool:
        """Tell whether an entry that was read is somebody's already: it waits for a retry, is retried, or is
        being expired."""
        return place in self.waiting or place in self.out_of_turn or place in self.expiring

    def has_room(self, mailbox: Mailbox) -> bool:
        """Tell whether one more item of this mailbox may be held in memory."""
        queue = mailbox.queue
        return not queue or len(queue) < self._share(mailbox)

    def has_room_for_what_comes(self, mailbox: Mailbox) -> bool:
        """Tell whether all that is being routed to this mailbox may be held in memory."""
        return len(mailbox.queue) + mailbox.coming <= self._share(mailbox)

    def room_of(self, mailbox: Mailbox) -> int:
        """Return how many entries may be read of a mailbox now, at least one."""
        return max(1, self._share(mailbox) - len(mailbox.queue))

    def _share(self, mailbox: Mailbox) -> int:
        """Return how many items a mailbox may hold. The fuller memory is, the smaller the share, and it is
        never nothing: a backlog of slow endpoints must not lock out the fast ones."""
        if mailbox.endpoint.breaker.state is not CLOSED:
            return MAILBOX_QUEUED_MIN
        held = self.queued + self.coming
        if held < SHARD_QUEUED_MAX:
            return MAILBOX_QUEUED_MAX
        return MAILBOX_QUEUED_FULL if held < 8 * SHARD_QUEUED_MAX else MAILBOX_QUEUED_MIN

    def hold(self, item: Item) -> None:
        """Take an item into memory, last of its mailbox; where order is kept, a retry goes first."""
        mailbox = item.mailbox
        if item.due_taken and mailbox.endpoint.agent.ordered:
            mailbox.queue.appendleft(item)
        else:
            mailbox.queue.append(item)
        mailbox.endpoint.queued += 1
        mailbox.held += 1
        self.queued += 1

    def next_item(self, endpoint: Endpoint) -> Item | None:
        """Take the endpoint's next item off its queue; it is still held until `release`."""
        item = endpoint.next_item()
        if item is not None:
            self.queued -= 1
            if item.mailbox.behind:
                self._note_hunger(item.mailbox)
        return item

    def take_out(self, mailbox: Mailbox, entry: str) -> Item | None:
        """Take one particular item off its queue, where it is still there."""
        for item in mailbox.queue:
            if item.entry == entry:
                mailbox.queue.remove(item)
                mailbox.endpoint.queued -= 1
                self.queued -= 1
                if mailbox.behind:
                    self._note_hunger(mailbox)
                return item
        return None

    def release(self, mailbox: Mailbox) -> None:
        """Let go of one item of a mailbox: Redis has settled it."""
        mailbox.held -= 1
        if mailbox.held == 0:
            self._note_idle(mailbox)

    def settled(self, items: list[Item]) -> None:
        """Let go of items that Redis has settled."""
        now_ms = self._now_ms()
        for item in items:
            if item.due_taken or item.shelved:
                self.out_of_turn.discard(item.place)
            mailbox = item.mailbox
            mailbox.held -= 1
            if mailbox.held == 0:
                mailbox.idle_since_ms = now_ms
                self._idle.append((now_ms, mailbox.key))

    def came(self, mailbox: Mailbox) -> None:
        """Note that one of the messages that were coming is here, or will not come."""
        mailbox.coming -= 1
        if mailbox.is_idle:
            self._note_idle(mailbox)

    def wait(self, mailbox: Mailbox | None, place: str) -> None:
        """Note a retry that waits in Redis. Its mailbox stays open for it."""
        self.waiting[place] = mailbox
        if mailbox is not None:
            mailbox.held += 1
            mailbox.endpoint.note_waiting(1)

    def wake(self, place: str) -> None:
        """Note that a retry waits no more."""
        mailbox = self.waiting.pop(place, None)
        if mailbox is not None:
            mailbox.endpoint.note_waiting(-1)
            self.release(mailbox)

    def update(self, endpoint: Endpoint, agent: Agent) -> None:
        """Take over what changed in an agent's record. At another address it begins anew: what was learnt of
        the former one, and how long to leave that alone, says nothing about this."""
        fresh = is_fresh(agent, endpoint.agent)
        fault = endpoint.fault if endpoint.is_disabled_here_only and not fresh else None
        if fresh or agent.endpoint_fault is not None:
            self.trust(endpoint)
        endpoint.update(agent)
        if fault is not None and endpoint.fault is None:
            # The record was changed in something else before the keeper wrote down what we found.
            endpoint.disable(fault)

    def trust(self, endpoint: Endpoint) -> None:
        """Begin anew with an endpoint; one that is disabled has nothing to be spared."""
        endpoint.breaker = self._make_breaker()

    def withdraw_direct(self, endpoint: Endpoint) -> list[Item]:
        """Take off their queues what was handed over directly, for it to be put into the mailboxes."""
        withdrawn: list[Item] = []
        for mailbox in endpoint.mailboxes.values():
            direct = [item for item in mailbox.queue if item.direct]
            if direct:
                mailbox.queue = deque(item for item in mailbox.queue if not item.direct)
                self._let_go(mailbox, len(direct))
                withdrawn += direct
        return withdrawn

    def _let_go(self, mailbox: Mailbox, count: int) -> None:
        mailbox.held -= count
        mailbox.endpoint.queued -= count
        self.queued -= count

    def abandon(self, endpoint: Endpoint) -> list[str]:
        """Forget an endpoint that was taken away: what is queued stays in Redis for its agent to pull. Return
        the due members of retries among it; they wait again, should there be an endpoint again."""
        retries = []
        for mailbox in tuple(endpoint.mailboxes.values()):
            for item in mailbox.queue:
                self.out_of_turn.discard(item.place)
                if item.due_taken:
                    retries.append(item.due_member)
                    self.wait(None, item.place)
                elif item.shelving is not None:
                    # It is given back while it is on its way.
                    item.shelved = False
                    mailbox.coming += 1
            self.queued -= len(mailbox.queue)
            endpoint.queued -= len(mailbox.queue)
            mailbox.queue.clear()
            self.close(mailbox)
        self.endpoints.pop(endpoint.agent.id, None)
        return retries

    def fall_behind(self, mailbox: Mailbox) -> None:
        """Note that entries lie in Redis that are not in memory."""
        mailbox.behind = True
        mailbox.active = mailbox.is_used = True
        mailbox.again = mailbox.collecting
        self._note_hunger(mailbox)

    def shed(self, endpoint: Endpoint) -> None:
        """Give back to Redis what an endpoint in trouble has queued: memory is for those that answer.

        Items are posted in the order of their entries, so everything that was ever tried lies before the
        first one that was not: reading on from there later brings each of these once. What was put into its
        mailbox while it was in memory is out of that order, and stays.
        """
        for mailbox in endpoint.mailboxes.values():
            untried = [item for item in mailbox.queue if _is_as_read(item)]
            if len(untried) <= MAILBOX_QUEUED_MIN:
                continue
            kept = untried[:MAILBOX_QUEUED_MIN]
            mailbox.queue = deque(item for item in mailbox.queue if not _is_as_read(item) or item in kept)
            self._let_go(mailbox, len(untried) - len(kept))
            mailbox.cursor = kept[-1].entry
            self.fall_behind(mailbox)

    def catch_up(self, mailbox: Mailbox) -> None:
        """Note that memory has everything up to the end of the mailbox."""
        mailbox.behind = False
        self.hungry.pop(mailbox.key, None)
        if mailbox.held == 0:
            self._note_idle(mailbox)

    def vacant(self, *, now_ms: int, at_most: int) -> Iterator[Mailbox]:
        """Yield mailboxes that have been empty long enough, and close the books for them."""
        while self._idle and at_most and self._idle[0][0] + VACATE_AFTER_MS <= now_ms:
            since_ms, key = self._idle.popleft()
            mailbox = self.mailboxes.get(key)
            if mailbox is None or not mailbox.is_idle or mailbox.idle_since_ms != since_ms:
                continue
            at_most -= 1
            self.close(mailbox)
            yield mailbox

    def close(self, mailbox: Mailbox) -> None:
        """Close the books of a mailbox, and of its endpoint with the last one."""
        del self.mailboxes[mailbox.key]
        mailbox.closed = True
        self.hungry.pop(mailbox.key, None)
        endpoint = mailbox.endpoint
        del endpoint.mailboxes[mailbox.lane]
        # An endpoint in trouble is remembered, or its breaker would start anew with every message; so is one
        # that said 410 until its record says so, or it would be asked again.
        if endpoint.is_idle and not endpoint.breaker.retry_at_ms and not endpoint.is_disabled_here_only:
            self.endpoints.pop(endpoint.agent.id, None)

    def _note_hunger(self, mailbox: Mailbox) -> None:
        # Half-empty, so that one read brings several entries.
        if not mailbox.collecting and 2 * len(mailbox.queue) <= self._share(mailbox):
            self.hungry[mailbox.key] = mailbox

    def _note_idle(self, mailbox: Mailbox) -> None:
        mailbox.idle_since_ms = self._now_ms()
        self._idle.append((mailbox.idle_since_ms, mailbox.key))


def _is_as_read(item: Item) -> bool:
    """Tell whether an item was never tried and stands in its queue as its entry stands in the mailbox."""
    return not (item.due_taken or item.direct or item.shelved)


def is_fresh(agent: Agent, before: Agent) -> bool:
    """Tell whether an agent has another endpoint than before, or the same one that is to be tried again."""
    return (agent.endpoint, agent.endpoint_since_ms) != (before.endpoint, before.endpoint_since_ms)
