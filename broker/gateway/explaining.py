"""A dry run of routing: who would get a message and why, without sending it.

The capable agents are read from Postgres into a directory of their own, heartbeats from Redis, and the same
function decides as in the routers. What only the routers know, how busy and how good each agent is, is left
out, and the reply says so.
"""

import random
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from broker.core import explanation
from broker.core.directory import Directory
from broker.core.explanation import RouteExplanation
from broker.core.routing import Choice, NoCandidate, Quality, check_named, choose
from broker.gateway.access import acting_agent
from broker.gateway.call import Call, Reply
from broker.gateway.sending import Origin, envelope_of, needed
from broker.gateway.services import Services
from broker.store import agents as stored_agents
from schema.agent import Agent, AgentStatus
from schema.errors import Unavailable
from schema.ids import new_id
from schema.limits import EXPLAINED_EXAMINED_MAX
from schema.message import Envelope, SendRequest
from schema.routing import CandidateView, ExplainReply
from schema.times import from_ms

COUNTED_MAX: Final = 100_000
"""Agents counted per capability; beyond it the number is this one."""
_NO_LOADS: Final = (
    "Loads, success rates and latencies are known to the routers only: here every agent counts as idle and "
    "perfect, so among those that pass the filters chance decides."
)
_WAITING: Final = {
    AgentStatus.PAUSED: "The recipient is paused: the message would wait in its mailbox.",
}


class ExplainQuery(Struct):
    """Query of `POST /api/route/explain`."""

    from_agent_id: str | None = None


class Idle:
    """Loads of agents nobody has measured."""

    def outstanding(self, _: str) -> int:
        return 0

    def quality(self, _: str, __: str) -> Quality:
        return Quality()


async def explain(call: Call[SendRequest, ExplainQuery]) -> Reply:
    """Say where a message would go, and why, without sending it: the candidates, what drops each, their
    scores and the one chosen. The body is that of a message."""
    services, request = call.services, call.body
    sender = await acting_agent(call, request.from_agent_id, call.query.from_agent_id)
    origin = Origin(
        id=(request.id or new_id()).lower(),
        from_agent_id=sender,
        to_agent_id=None,
        now=from_ms(services.now_ms()),
    )
    envelope = envelope_of(request, origin)
    if request.to_agent_id is not None:
        return Reply(body=await _explain_named(services, envelope, request.to_agent_id))
    return Reply(body=await _explain_capability(services, envelope, needed(request) or []))


async def _explain_named(services: Services, envelope: Envelope, reference: str) -> ExplainReply:
    agent = await services.agents.record(reference)
    refusal = check_named(envelope, agent, services.now_ms())
    reply = ExplainReply(
        by="name",
        outcome="chosen" if refusal is None else "refused",
        reason="named_recipient" if refusal is None else refusal.value,
        to_agent_id=None if agent is None else agent.id,
        requirements=[],
        having={},
        remaining=None,
        candidates=[],
        notes=[],
    )
    if agent is not None and refusal is None:
        reply.notes = _notes_on(agent)
    return reply


def _notes_on(agent: Agent) -> list[str]:
    notes = ["The sender names the recipient: nobody is chosen."]
    if agent.status in _WAITING:
        notes.append(_WAITING[agent.status])
    elif agent.endpoint is None:
        notes.append("The recipient has no endpoint: the message would wait until it is read.")
    return notes


async def _explain_capability(
    services: Services, envelope: Envelope, requirements: list[str]
) -> ExplainReply:
    requirements = list(dict.fromkeys(requirements))
    found = await stored_agents.capable(services.pool, requirements, limit=EXPLAINED_EXAMINED_MAX)
    registered, having = await stored_agents.count_having(services.pool, requirements, at_most=COUNTED_MAX)
    notes = [_NO_LOADS]
    if len(found) == EXPLAINED_EXAMINED_MAX:
        notes.append(f"Of the capable agents {EXPLAINED_EXAMINED_MAX} were looked at.")
    directory = await _directory_of(services, found, notes)
    explained, outcome = _decide(envelope, requirements, directory, now_ms=services.now_ms())
    return _reply(explained, outcome, registered=registered, having=having, notes=notes)


async def _directory_of(services: Services, agents: list[Agent], notes: list[str]) -> Directory:
    directory = Directory(silent_after_ms=services.settings.silent_after_ms)
    for agent in agents:
        directory.put(agent)
    try:
        heard = await services.presence.last([agent.id for agent in agents])
    except Unavailable:
        heard = {}
        notes.append("Redis does not answer: heartbeats are as old as those in Postgres.")
    for agent_id, at_ms in heard.items():
        directory.heard(agent_id, at_ms)
    return directory


def _decide(
    envelope: Envelope, requirements: list[str], directory: Directory, *, now_ms: int
) -> tuple[RouteExplanation, str]:
    """Return the explanation, and what would become of the message."""
    chance = (random.random(), random.random())
    loads = Idle()
    # One shard: which router decides, and whom it has near, does not show in a message not sent yet.
    choice = choose(envelope, requirements, directory, loads, shard=0, shards=1, now_ms=now_ms, chance=chance)
    explained = explanation.explain(
        envelope, requirements, directory, loads, shard=0, shards=1, now_ms=now_ms, chance=chance
    )
    return explained, _outcome(choice)


def _outcome(choice: Choice | NoCandidate) -> str:
    if isinstance(choice, Choice):
        return "chosen"
    return "parked" if choice.ends is None else "refused"


def _reply(
    explained: RouteExplanation, outcome: str, *, registered: int, having: dict[str, int], notes: list[str]
) -> ExplainReply:
    return ExplainReply(
        by="capability",
        outcome=outcome,
        reason=explained.rule,
        to_agent_id=explained.chosen,
        requirements=explained.requirements,
        having=having,
        remaining=replace(explained.remaining, registered=registered),
        candidates=[
            CandidateView(
                agent_id=seen.agent_id,
                name=seen.name,
                dropped_by=None if seen.dropped_by is None else seen.dropped_by.value,
                load=seen.load,
                success_rate=seen.success_rate,
                latency_ms=seen.latency_ms,
                score=seen.score,
                chosen=seen.chosen,
            )
            for seen in explained.candidates
        ],
        notes=notes,
    )
