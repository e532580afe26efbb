"""Who gets a message: filter, score, choose.

`choose` serves messages routed by capability, `check_named` those with a recipient. The index has applied
every filter that does not change with each message (capabilities, state, silence, message type, allow-list);
here two random candidates are looked at, and the better one wins: many routers that see the same loads must
not all pick the same agent (Mitzenmacher, "The Power of Two Choices", 2001). Candidates in the own shard are
tried first, because any other choice costs a forward.

It keeps no state and takes time, loads and chance as arguments.

Invariants: the result never fails a filter that `explanation.explain` applies; the work is bounded by
`ROUTE_RESAMPLES_MAX` and `ROUTE_SCAN_MAX` whatever the number of candidates; nobody is left out for ever:
with equal loads every candidate is as likely as any other of its shard.
"""

from array import array
from collections.abc import Collection, Sequence
from enum import Enum
from typing import Final, Protocol

from msgspec import Struct

from broker.core.directory import Directory
from schema.agent import Agent, AgentStatus
from schema.limits import HOP_MAX, ROUTE_EXCLUDED_MAX, ROUTE_RESAMPLES_MAX, ROUTE_SCAN_MAX
from schema.message import Envelope, Reason
from schema.quick import quick
from schema.times import to_ms

# How much quality counts against headroom, by priority: urgent messages get the best, bulk ones spread.
_URGENT, _NORMAL, _BULK = 0.75, 0.5, 0.2
_QUALITY_WEIGHT: Final = (_URGENT,) * 4 + (_NORMAL,) * 4 + (_BULK,) * 3
LATENCY_HALF_MS: Final = 1_000.0
"""An agent that takes this long is worth half of one that answers at once."""
GOOD_ENOUGH: Final = 0.6
"""An own-shard candidate with this score is taken unseen: nobody elsewhere could be worth a forward."""
FORWARD_COST: Final = 0.1
"""What a candidate elsewhere must score above one in the own shard."""


class Quality(Struct, frozen=True, gc=False):
    """What the broker measured of one agent at one capability: `success_rate` from 0 to 1."""

    success_rate: float = 1.0
    latency_ms: float = 0.0


class Loads(Protocol):
    """What the process that routes knows of its agents; asked twice or more per message, so it must be cheap.

    `quality` is asked for the first capability a message requires. An agent nobody measured yet is a perfect
    one, and rates must drift back up with time: one that never gets a message can not show it has recovered.
    """

    def outstanding(self, agent_id: str) -> int: ...

    def quality(self, agent_id: str, capability: str) -> Quality: ...


@quick
class Rule(Enum):
    """How the choice was made. OVERFLOW: everybody looked at is at capacity, so the message queues."""

    ONLY_ONE = "only_one"
    OWN_SHARD = "own_shard"
    TWO_CHOICES = "two_choices"
    RESAMPLED = "resampled"
    SCANNED = "scanned"
    OVERFLOW = "overflow"


class Candidate(Struct, gc=False):
    """An agent that was looked at, as it is stored with the message. `score` is above 0 with room for the
    message, below it when full (then the least loaded has the highest)."""

    agent_id: str
    load: float
    score: float


class Choice(Struct, gc=False):
    """The recipient. `candidates`: how many passed the filters; `sampled`: those looked at, at random."""

    agent: Agent
    score: float
    rule: Rule
    candidates: int
    sampled: Sequence[Candidate]


@quick
class Shortage(Enum):
    """Why nobody was chosen; the filters in their order."""

    HOP_LIMIT = "hop_limit"
    EXPIRED = "expired"
    NOTHING_REQUIRED = "nothing_required"
    NOBODY_CAPABLE = "nobody_capable"
    NOBODY_ACTIVE = "nobody_active"
    NOBODY_ONLINE = "nobody_online"
    NOBODY_ACCEPTING = "nobody_accepting"
    NOBODY_ALLOWED = "nobody_allowed"
    NOBODY_ELSE = "nobody_else"


class NoCandidate(Struct, frozen=True, gc=False):
    """Nobody. `ends`: the message fails or expires with this reason; None: it is parked."""

    reason: Shortage
    ends: Reason | None = None


# Named once: to look up a member of an enum costs some ten times as much as a global name (CPython 3.11).
_DISABLED: Final = AgentStatus.DISABLED
_OWN_SHARD: Final = Rule.OWN_SHARD

_HOP_LIMIT: Final = NoCandidate(Shortage.HOP_LIMIT, Reason.HOP_LIMIT)
_EXPIRED: Final = NoCandidate(Shortage.EXPIRED, Reason.EXPIRED)
_NOTHING_REQUIRED: Final = NoCandidate(Shortage.NOTHING_REQUIRED, Reason.MALFORMED)


def check_named(envelope: Envelope, agent: Agent | None, now_ms: int) -> Reason | None:
    """Return why the named recipient may not get the message; None when it may.

    A paused or silent recipient may: the message waits in its mailbox. One whose endpoint the broker has
    disabled may not: nothing would come of waiting.
    """
    if agent is None:
        return Reason.UNKNOWN_RECIPIENT
    if envelope.hop > HOP_MAX:
        return Reason.HOP_LIMIT
    if agent.status is _DISABLED:
        return Reason.RECIPIENT_DISABLED
    if agent.endpoint_fault is not None:
        return agent.endpoint_fault.refusal
    if agent.allow_from is not None and envelope.from_agent_id not in agent.allow_from:
        return Reason.SENDER_NOT_ALLOWED
    if envelope.expires_at is not None and _is_expired(envelope, now_ms):
        return Reason.EXPIRED
    return None


def choose(
    envelope: Envelope,
    requirements: Sequence[str],
    directory: Directory,
    loads: Loads,
    *,
    shard: int,
    shards: int,
    now_ms: int,
    chance: tuple[float, float],
    excluded: Collection[str] = (),
) -> Choice | NoCandidate:
    """Choose the recipient of a message that names capabilities instead.

    `shard` is the caller's own of `shards`; `chance` are two numbers in [0, 1); `excluded` are the ids of
    agents that already declined it (at most `ROUTE_EXCLUDED_MAX`, more are ignored).
    """
    if envelope.hop > HOP_MAX:
        return _HOP_LIMIT
    if envelope.expires_at is not None and _is_expired(envelope, now_ms):
        return _EXPIRED
    if not requirements:
        return _NOTHING_REQUIRED
    required, sender = tuple(requirements), envelope.from_agent_id
    pool = directory.pool(required, envelope.message_type, sender, now_ms)
    slots = pool.slots
    if not slots:
        return _shortage(envelope, required, directory, now_ms)
    left_out = tuple(excluded)[:ROUTE_EXCLUDED_MAX] if excluded else ()
    weight = _QUALITY_WEIGHT[envelope.priority]
    judge = _Judge(directory.by_slot, sender, left_out, required[0], weight, loads, [], [])
    own = None
    if shards > 1 and (near := pool.in_shard(shard, shards, directory.index)):
        own = judge.better_of_two(near, chance)
        if own is not None and own.score >= GOOD_ENOUGH:
            return judge.chosen(own, _OWN_SHARD, len(slots))
    return _choose_anywhere(judge, slots, own, chance)


class _Judge(Struct, gc=False):
    """Looks at candidates for one message. `seen` are those that may get it at all, `looked_at` their agents:
    to look one up by its id again costs as much as a look, where agents are many."""

    agents: list[Agent]
    sender: str | None
    excluded: tuple[str, ...]
    capability: str
    weight: float
    loads: Loads
    seen: list[Candidate]
    looked_at: list[Agent]

    def look_at(self, slot: int) -> Candidate | None:
        """Return the agent with its score, None when it may not get the message."""
        agent = self.agents[slot]
        agent_id = agent.id
        if agent_id == self.sender or agent_id in self.excluded:
            return None
        candidate = weigh(agent, self.capability, self.weight, self.loads)
        self.seen.append(candidate)
        self.looked_at.append(agent)
        return candidate

    def better_of_two(self, slots: "array[int]", chance: tuple[float, float]) -> Candidate | None:
        """Return the better of two different random candidates."""
        count = len(slots)
        first_at = int(chance[0] * count)
        first = self.look_at(slots[first_at])
        if count == 1:
            return first
        second_at = int(chance[1] * (count - 1))
        if second_at >= first_at:
            second_at += 1
        second = self.look_at(slots[second_at])
        if first is None or (second is not None and second.score > first.score):
            return second
        return first

    def chosen(self, candidate: Candidate, rule: Rule, candidates: int) -> Choice:
        """Return the choice of one that was looked at."""
        agent = self.looked_at[self.seen.index(candidate)]
        return Choice(agent, candidate.score, rule, candidates, self.seen)


def weigh(agent: Agent, capability: str, quality_weight: float, loads: Loads) -> Candidate:
    """Return the agent's load relative to its capacity, and its score."""
    agent_id, capacity = agent.id, agent.max_concurrent_jobs
    outstanding = loads.outstanding(agent_id)
    if outstanding >= capacity:
        load = (outstanding + 1) / max(capacity, 1)
        return Candidate(agent_id, load, -load)
    load = outstanding / capacity
    quality = loads.quality(agent_id, capability)
    rate = quality.success_rate
    worth = rate * LATENCY_HALF_MS / (LATENCY_HALF_MS + quality.latency_ms)
    # The success rate counts twice: whoever fails fast is always idle, and must not attract work by it.
    mixed = (1.0 - load) * (1.0 - quality_weight) + worth * quality_weight
    return Candidate(agent_id, load, rate * mixed)


def quality_weight(envelope: Envelope) -> float:
    """Return how much quality counts for a message of this priority."""
    return _QUALITY_WEIGHT[envelope.priority]


def _choose_anywhere(
    judge: _Judge, slots: "array[int]", own: Candidate | None, chance: tuple[float, float]
) -> Choice | NoCandidate:
    """Choose among all; the own shard's candidate stays unless another is worth the forward."""
    count = len(slots)
    best, rule = judge.better_of_two(slots, chance), Rule.TWO_CHOICES if count > 1 else Rule.ONLY_ONE
    if own is not None and (best is None or best.score <= own.score + FORWARD_COST):
        best, rule = own, Rule.OWN_SHARD
    if best is None or best.score < 0.0:
        best, rule = _search(judge, slots, best, chance)
    if best is None:
        return NoCandidate(Shortage.NOBODY_ELSE)
    return judge.chosen(best, rule, count)


def _search(
    judge: _Judge, slots: "array[int]", best: Candidate | None, chance: tuple[float, float]
) -> tuple[Candidate | None, Rule]:
    """Look for somebody with room: a few at random, then in a row from a random start."""
    count = len(slots)
    random = int(chance[0] * 2**31) ^ int(chance[1] * 2**16)
    for _ in range(ROUTE_RESAMPLES_MAX):
        # The generator of ANSI C: good enough to pick other candidates, and the same every time.
        random = (random * 1_103_515_245 + 12_345) & 0x7FFFFFFF
        found = judge.look_at(slots[(random >> 8) % count])
        if found is not None and (best is None or found.score > best.score):
            best = found
            if best.score >= 0.0:
                return best, Rule.RESAMPLED
    for step in range(min(count, ROUTE_SCAN_MAX)):
        found = judge.look_at(slots[(random + step) % count])
        if found is not None and (best is None or found.score > best.score):
            best = found
            if best.score >= 0.0:
                return best, Rule.SCANNED
    return best, Rule.OVERFLOW


def _shortage(
    envelope: Envelope, required: tuple[str, ...], directory: Directory, now_ms: int
) -> NoCandidate:
    """Return the first filter that left nobody."""
    left = directory.funnel(required, envelope.message_type, envelope.from_agent_id, now_ms)
    for slots, reason in (
        (left.capable, Shortage.NOBODY_CAPABLE),
        (left.active, Shortage.NOBODY_ACTIVE),
        (left.heard, Shortage.NOBODY_ONLINE),
        (left.accepting, Shortage.NOBODY_ACCEPTING),
    ):
        if not slots:
            return NoCandidate(reason)
    return NoCandidate(Shortage.NOBODY_ALLOWED)


def _is_expired(envelope: Envelope, now_ms: int) -> bool:
    return envelope.expires_at is not None and to_ms(envelope.expires_at) <= now_ms
