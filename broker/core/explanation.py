"""Why a message went where it went: in full for a dry run, in brief to be stored with every message.

It decides nothing. What dropped an agent is found here by looking at the agent itself, not by asking the
index that `choose` used: the two are compared in tests.

Invariant: the agent `choose` would return for the same arguments is the one marked as chosen, and no filter
dropped it.
"""

from collections.abc import Sequence
from enum import Enum
from itertools import islice
from typing import Final

from msgspec import UNSET, Struct, UnsetType

from broker.core.directory import Directory
from broker.core.routing import (
    Candidate,
    Choice,
    Loads,
    NoCandidate,
    choose,
    quality_weight,
    weigh,
)
from schema.agent import Agent
from schema.codec import encode
from schema.limits import EXPLAINED_CANDIDATES_MAX, EXPLAINED_EXAMINED_MAX
from schema.message import Envelope, Tried
from schema.routing import RemainingView


class Drop(Enum):
    """The filter that dropped a capable agent; they apply in this order. AT_CAPACITY only puts it behind
    everybody with room."""

    NOT_ACTIVE = "not_active"
    SILENT = "silent"
    TYPE_NOT_ACCEPTED = "type_not_accepted"
    SENDER_NOT_ALLOWED = "sender_not_allowed"
    IS_SENDER = "is_sender"
    AT_CAPACITY = "at_capacity"


_LATE_FIRST: Final = {drop: -place for place, drop in enumerate(Drop, start=1)}
_SAMPLED_KEPT: Final = 4  # what a plain choice looks at, at most: two in the own shard, two anywhere


class ExplainedCandidate(Struct):
    """One capable agent; load, quality and score are what a message sent now would see."""

    agent_id: str
    name: str
    dropped_by: Drop | None
    load: float
    success_rate: float
    latency_ms: float
    score: float
    chosen: bool


class RouteExplanation(Struct):
    """The whole decision. `rule`: how the chosen one was found, or why there is none; `having`: how many
    agents have each capability."""

    requirements: list[str]
    chosen: str | None
    rule: str
    having: dict[str, int]
    remaining: RemainingView
    candidates: list[ExplainedCandidate]


class RouteBrief(Struct, gc=False):
    """What is stored with a message: the choice, its score, and the first few it was made from."""

    chosen: str
    rule: str
    score: float
    candidates: int
    sampled: Sequence[Candidate]
    tried: Sequence[Tried] | UnsetType = UNSET
    """Who was chosen before, oldest first, and why it went on to another."""


def brief(choice: Choice, tried: Sequence[Tried] = ()) -> bytes:
    """Return the compact form of a choice as JSON, ready for a ledger event. `tried`: choices before it."""
    # Scores are not rounded here: that would cost as much again as all the rest.
    sampled = choice.sampled if len(choice.sampled) <= _SAMPLED_KEPT else choice.sampled[:_SAMPLED_KEPT]
    rule = choice.rule._value_
    return encode(RouteBrief(choice.agent.id, rule, choice.score, choice.candidates, sampled, tried or UNSET))


def explain(
    envelope: Envelope,
    requirements: Sequence[str],
    directory: Directory,
    loads: Loads,
    *,
    shard: int,
    shards: int,
    now_ms: int,
    chance: tuple[float, float],
) -> RouteExplanation:
    """Choose as `choose` does, and say why. Sends nothing; for the same arguments the choice is the same."""
    choice = choose(
        envelope, requirements, directory, loads, shard=shard, shards=shards, now_ms=now_ms, chance=chance
    )
    required = tuple(requirements)
    left = directory.funnel(required, envelope.message_type, envelope.from_agent_id, now_ms)
    # Those the choice was made from come first: they must be shown however many there are.
    seen = choice.sampled if isinstance(choice, Choice) else ()
    sampled = [agent for one in seen if (agent := directory.get(one.agent_id)) is not None]
    capable = (directory.by_slot[slot] for slot in islice(left.capable, EXPLAINED_EXAMINED_MAX))
    examined = {agent.id: agent for agent in (*sampled, *capable)}
    drops = {agent.id: dropped_by(agent, envelope, directory, loads) for agent in examined.values()}
    return RouteExplanation(
        requirements=list(requirements),
        chosen=choice.agent.id if isinstance(choice, Choice) else None,
        rule=choice.rule.value if isinstance(choice, Choice) else choice.reason.value,
        having={capability: directory.index.count(capability) for capability in required},
        remaining=RemainingView(
            registered=len(directory),
            capable=len(left.capable),
            active=len(left.active),
            heard=len(left.heard),
            accepting=len(left.accepting),
            allowed=len(left.allowed),
            examined=len(examined),
            below_capacity=sum(drop is None for drop in drops.values()),
        ),
        candidates=[
            _candidate(examined[agent_id], drops[agent_id], choice, envelope, required[0], loads)
            for agent_id in _most_telling(drops, choice)
        ],
    )


def dropped_by(agent: Agent, envelope: Envelope, directory: Directory, loads: Loads) -> Drop | None:
    """Return the first filter a capable agent does not pass; None when it passes all."""
    if not agent.takes_work:
        return Drop.NOT_ACTIVE
    if directory.is_silent(agent.id):
        return Drop.SILENT
    if agent.accepts is not None and envelope.message_type not in agent.accepts:
        return Drop.TYPE_NOT_ACCEPTED
    if agent.allow_from is not None and envelope.from_agent_id not in agent.allow_from:
        return Drop.SENDER_NOT_ALLOWED
    if agent.id == envelope.from_agent_id:
        return Drop.IS_SENDER
    if loads.outstanding(agent.id) >= agent.max_concurrent_jobs:
        return Drop.AT_CAPACITY
    return None


def _most_telling(drops: dict[str, Drop | None], choice: Choice | NoCandidate) -> list[str]:
    """Return the ids to show: the chosen one, those looked at, then those that came farthest."""
    sampled = {seen.agent_id for seen in choice.sampled} if isinstance(choice, Choice) else set()
    chosen = choice.agent.id if isinstance(choice, Choice) else None

    def place(agent_id: str) -> tuple[bool, bool, int]:
        drop = drops[agent_id]
        return (
            agent_id != chosen,
            agent_id not in sampled,
            -len(Drop) - 1 if drop is None else _LATE_FIRST[drop],
        )

    return sorted(drops, key=place)[:EXPLAINED_CANDIDATES_MAX]


def _candidate(
    agent: Agent,
    drop: Drop | None,
    choice: Choice | NoCandidate,
    envelope: Envelope,
    capability: str,
    loads: Loads,
) -> ExplainedCandidate:
    weighed = weigh(agent, capability, quality_weight(envelope), loads)
    quality = loads.quality(agent.id, capability)
    return ExplainedCandidate(
        agent_id=agent.id,
        name=agent.name,
        dropped_by=drop,
        load=round(weighed.load, 3),
        success_rate=round(quality.success_rate, 3),
        latency_ms=round(quality.latency_ms, 1),
        score=round(weighed.score, 3),
        chosen=isinstance(choice, Choice) and choice.agent.id == agent.id,
    )
